//! Builds the guest's agent as a static binary and passes its path to the harness. `image.rs`
//! includes it in the harness's binary.
//!
//! It links with static glibc (`libc.a`), which is part of libc6-dev. Every gcc that links programs
//! needs that package anyway, so no musl target is needed.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest is x86-64 on every host. The target is also passed explicitly because with `--target`,
/// cargo does not apply `RUSTFLAGS` to build scripts and proc macros, and a proc macro cannot be
/// linked with `crt-static`.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Folders that the harness's binary includes (`known_bugs/suite.rs`). `include_dir!` does not
/// report the files that it reads.
const CARRIED: [&str; 3] = ["guest-images/patches", "guest-images/configs", "scenarios"];

/// Inputs of the agent's build, relative to the workspace's root.
const SOURCES: [&str; 4] = ["Cargo.toml", "Cargo.lock", "guest-images/agent", "protocol"];

fn main() {
    match build() {
        Ok(agent) => println!("cargo::rustc-env=HOTPLUG_AGENT={}", agent.display()),
        // Cargo ends the build on this line and shows the message without the script's other
        // output.
        Err(what) => println!("cargo::error=the guest's agent could not be built: {what}"),
    }
}

fn build() -> Result<PathBuf, String> {
    let harness = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = harness.parent().ok_or("harness/ is in no workspace")?;
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES.into_iter().chain(CARRIED) {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    // The inner build has its own target folder, because the outer cargo holds the lock on its
    // target folder until this script ends.
    let target_dir = Path::new(&variable("OUT_DIR")?).join("agent");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(root);
    for (name, _) in env::vars_os().filter(|(name, _)| concerns_the_outer_build(name)) {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo.args([
        "build",
        "--package=hotplug-agent",
        "--profile=agent",
        "--locked",
        "--quiet",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(&target_dir);
    // The output is captured, because the outer cargo would interpret the inner cargo's standard
    // output as instructions. Its errors are shown if the build fails.
    let output = cargo.output().map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        for line in text.lines() {
            println!("cargo::error={line}");
        }
        let help = if text.contains("may not be installed") {
            format!("; help: rustup target add {TARGET}")
        } else if text.contains("cannot find -lc") {
            "; help: install the C library's static form (Debian: libc6-dev)".to_owned()
        } else {
            String::new()
        };
        return Err(format!("{}{help}", output.status));
    }
    Ok(target_dir.join(TARGET).join("agent").join("hotplug-agent"))
}

/// Whether a variable belongs to the outer build. Its flags, wrappers (clippy's driver, coverage)
/// and per-package variables would change the agent or make its build fail. The locations of
/// packages and registries, the choice of rustc, and the jobserver are kept.
fn concerns_the_outer_build(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let named = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOCFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_INCREMENTAL",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "OUT_DIR",
    ];
    let prefixes = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
    ];
    named.contains(&&*name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
