//! `hotplug compare`: from a patch to a verdict.

use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::comparison::{CompareArgs, Finished, finish, prepare};
use super::control::control;
use super::{history, page};
use crate::Result;
use crate::compare::Control;
use crate::present::{stream, terminal};

/// Runs the comparison, prints the screen to `out`, returns the exit status.
pub async fn run(args: &CompareArgs, out: &mut impl Write, cancel: &CancellationToken) -> Result<u8> {
    let cache = args.pair.open_cache()?;
    let ready = prepare(args, &cache, cancel).await?;
    let control = if args.no_control {
        Control::None { why: "--no-control".into() }
    } else {
        // Boxed: a comparison within a comparison is a large future.
        Box::pin(control(&ready, &cache, cancel)).await?
    };
    let Finished { folder, result, stopped, .. } = finish(ready, Some(control), &cache, cancel).await?;
    history::add(folder.path(), &result);
    page::write(folder.path(), &result)?;
    if args.json_lines {
        stream::ended(out, &result)?;
    } else {
        out.write_all(terminal::screen(&result, folder.path()).as_bytes())?;
    }
    stopped.map_or(Ok(result.exit_status), Err)
}
