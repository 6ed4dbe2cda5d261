//! The make invocations of one build: configuring and compiling.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::{Context, Plan};
use crate::kernel::base::Base;
use crate::kernel::diagnose::failed_make;
use crate::kernel::make::{Ended, Make};
use crate::kernel::objects;
use crate::kernel::progress::BuildEvent;
use crate::{Error, Result};

/// The number of SIGKILL (signal(7)).
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// The make invocations of one build.
pub(super) struct Run<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) plan: &'a Plan,
    pub(super) make: Make<'a>,
    pub(super) log: File,
    pub(super) log_path: &'a Path,
}

impl Run<'_> {
    /// Configures the kernel in `objects`, unless that was done from inputs with the hash `by`.
    pub(super) async fn configure(&mut self, objects: &Path, by: &str) -> Result<()> {
        if objects::is_configured(objects, by) {
            return Ok(());
        }
        let Context { config, .. } = self.context;
        let dot_config = objects.join(".config");
        self.context.tell(self.plan.which, BuildEvent::Configuring);
        config.base().check(self.make.source, config.arch())?;
        // While the configuration is incomplete, the recorded hash is empty.
        objects::configured(objects, "")?;
        match config.base() {
            Base::Tiny => self.make(&["tinyconfig"], |_| ()).await?,
            Base::Target(name) => self.make(&[name], |_| ()).await?,
            Base::File { text, .. } => {
                fs_err::write(&dot_config, text)?;
                self.make(&["olddefconfig"], |_| ()).await?;
            }
        }
        let mut text = fs_err::read_to_string(&dot_config)?;
        objects::keep_plain_config(objects, &text)?;
        text.push_str(&config.text());
        fs_err::write(&dot_config, text)?;
        self.make(&["olddefconfig"], |_| ()).await?;
        objects::configured(objects, by)
    }

    /// Makes `targets`, which may include make variables. An error contains the compiler's message.
    /// The objects are kept unless make was killed.
    pub(super) async fn make(&mut self, targets: &[&str], on_line: impl FnMut(&str)) -> Result<()> {
        let Run { context, plan, make, log, log_path } = self;
        let objects = make.objects.unwrap_or(make.source);
        match make.run(targets, log, on_line, context.cancel).await? {
            Ended::Finished(status) => {
                if status.success() {
                    return Ok(());
                }
                // A make that was killed, for example by the OOM killer, has removed no partial
                // targets.
                if status.signal() != Some(SIGKILL) {
                    objects::made(objects)?;
                }
                let kept = context.cache.failed().join(format!("{}.log", plan.id.as_str()));
                fs_err::copy(*log_path, &kept)?;
                let text = String::from_utf8_lossy(&fs_err::read(*log_path)?).into_owned();
                let patched = if plan.patches.is_empty() { "" } else { ", with its patches," };
                let what = format!("the {} kernel ({}{patched})", plan.which, plan.located.name);
                Err(failed_make(plan.which, &what, &text, make.source, &kept))
            }
            Ended::Cancelled { orderly } => {
                if orderly {
                    objects::made(objects)?;
                }
                Err(Error::interrupted())
            }
        }
    }
}
