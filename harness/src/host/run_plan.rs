//! Runs an installation plan: asks for sudo's password, writes the apt source, runs apt, and
//! reports apt's last lines if it fails.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::apt::OUR_SOURCE;
use super::install::{InstallPlan, Rights};
use crate::process::ProcessGroup;
use crate::{Error, Result};

/// Number of apt's last lines that an error shows.
const LAST_LINES: usize = 15;

/// Runs the plan. `tell` receives a line before each step. If the plan is empty, nothing is
/// started.
///
/// Fails with a user error if there is neither root nor sudo (the error shows the commands), and
/// with an infrastructure error if apt fails (the error shows its last lines).
pub async fn run(
    plan: &InstallPlan,
    rights: Rights,
    cancel: &CancellationToken,
    mut tell: impl FnMut(&str),
) -> Result<()> {
    if plan.is_empty() {
        return Ok(());
    }
    match rights {
        Rights::Root => {}
        Rights::Sudo => ask_password(plan)?,
        Rights::None => {
            return Err(Error::user("installing packages needs root, and there is no sudo")
                .detail(plan.shell(Rights::Root))
                .help("run the lines above as root, or run `hotplug doctor --install` as root"));
        }
    }
    if let Some(source) = &plan.source {
        tell(&format!("writing {OUR_SOURCE}"));
        write_source(source, rights, cancel).await?;
    }
    let done = run_commands(plan, rights, cancel, &mut tell).await;
    if done.is_err() && plan.source.is_some() {
        // A source that apt cannot read would break every later `apt-get update` of this machine.
        let _ = run_one(&with_sudo(rights, &["rm", "-f", OUR_SOURCE]), &CancellationToken::new()).await;
    }
    done
}

async fn run_commands(
    plan: &InstallPlan,
    rights: Rights,
    cancel: &CancellationToken,
    tell: &mut impl FnMut(&str),
) -> Result<()> {
    // `update` fails if any source is broken, even if all needed packages are available. So the
    // next command runs anyway, and this failure is reported only if a package could not be
    // installed.
    let mut failed_update = None;
    for command in plan.commands(rights) {
        tell(&command.join(" "));
        let Err(error) = run_one(&command, cancel).await? else { continue };
        if command.last().is_some_and(|word| word == "update") {
            failed_update = Some(error);
        } else {
            let said = [failed_update.unwrap_or_default(), error].concat();
            return Err(Error::infrastructure(format!("`{}` failed", command.join(" ")))
                .detail(said)
                .help("correct the problem that apt reports, then run: hotplug doctor --install"));
        }
    }
    Ok(())
}

fn with_sudo(rights: Rights, command: &[&str]) -> Vec<String> {
    let sudo: &[&str] = if rights == Rights::Sudo { &["sudo"] } else { &[] };
    [sudo, command].concat().into_iter().map(str::to_owned).collect()
}

/// Makes sudo ask for the password. sudo reads it from the terminal, which only the foreground
/// process group may do. Later commands have their own process groups and find the password already
/// given.
fn ask_password(plan: &InstallPlan) -> Result<()> {
    let sudo = |arguments: &[&str], quiet: bool| {
        let mut command = std::process::Command::new("sudo");
        command.args(arguments);
        if quiet {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.status().is_ok_and(|status| status.success())
    };
    if sudo(&["-n", "true"], true) || (std::io::stdin().is_terminal() && sudo(&["-v"], false)) {
        return Ok(());
    }
    Err(Error::user("installing packages needs root, and sudo does not permit this user")
        .detail(plan.shell(Rights::Root))
        .help("run the lines above as root, or run `hotplug doctor --install` as root"))
}

async fn write_source(text: &str, rights: Rights, cancel: &CancellationToken) -> Result<()> {
    let mut draft = tempfile::NamedTempFile::new()?;
    draft.write_all(text.as_bytes())?;
    let draft = draft.path().display().to_string();
    let command = with_sudo(rights, &["install", "-m", "644", &draft, OUR_SOURCE]);
    run_one(&command, cancel)
        .await?
        .map_err(|said| Error::infrastructure(format!("cannot write {OUR_SOURCE}")).detail(said))
}

/// Runs one command to its end. The inner error has the last lines of its output.
async fn run_one(command: &[String], cancel: &CancellationToken) -> Result<Result<(), String>> {
    let Some((program, arguments)) = command.split_first() else { return Ok(Ok(())) };
    let (writer, reader) = tokio::net::unix::pipe::pipe()?;
    let writer = writer.into_blocking_fd()?;
    let mut started = Command::new(program);
    started.args(arguments).stdout(writer.try_clone()?).stderr(writer);
    // The signal is not SIGKILL, because a dpkg that is killed midway leaves a state that must be
    // repaired by hand.
    let mut group = ProcessGroup::spawn(started, Signal::SIGTERM)?;
    let mut lines = BufReader::new(reader).lines();
    let mut last = VecDeque::new();
    let mut interrupted = false;
    loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => {
                    tracing::debug!("{line}");
                    last.push_back(line);
                    if last.len() > LAST_LINES {
                        last.pop_front();
                    }
                }
                Ok(None) | Err(_) => break,
            },
            // apt aborts a download at once, but finishes the package that it is unpacking, so its
            // end is awaited.
            () = cancel.cancelled(), if !interrupted => {
                interrupted = true;
                let _ = nix::sys::signal::kill(group.id(), Signal::SIGINT);
            }
        }
    }
    let status = group.wait().await?;
    if interrupted {
        return Err(Error::interrupted());
    }
    if status.success() {
        return Ok(Ok(()));
    }
    last.push_back(status.to_string());
    Ok(Err(Vec::from(last).join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Vec<String> {
        ["sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_failure_shows_the_last_lines() {
        let said = run_one(&command("seq 100; echo 'E: no' >&2; exit 100"), &CancellationToken::new()).await;
        let said = said.unwrap().unwrap_err();
        assert!(said.starts_with("87\n") && said.ends_with("E: no\nexit status: 100\n"), "{said}");
    }

    #[tokio::test]
    async fn without_rights_the_commands_are_shown() {
        let plan = InstallPlan { packages: vec!["flex", "bc"], ..InstallPlan::default() };
        let error = run(&plan, Rights::None, &CancellationToken::new(), |_| {}).await.unwrap_err();
        assert_eq!(error.exit_status(), 2);
        insta::assert_snapshot!(error, @r#"
        installing packages needs root, and there is no sudo
            env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get update
            env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 flex bc
          help: run the lines above as root, or run `hotplug doctor --install` as root
        "#);
    }

    #[tokio::test]
    async fn an_empty_plan_starts_nothing() {
        let told =
            run(&InstallPlan::default(), Rights::None, &CancellationToken::new(), |step| panic!("{step}"))
                .await;
        assert!(told.is_ok());
    }
}
