//! Builds the guest's agent as a static binary for each architecture of guests and passes the paths
//! to the harness. `image.rs` includes them in the harness's binary.
//!
//! It links with static glibc (`libc.a`), which is part of libc6-dev. Every gcc that links programs
//! needs that package anyway, so no musl target is needed.
//!
//! The agent of x86-64 is always built. That of another architecture is built where the Rust target
//! and a linker for it are installed, and is empty elsewhere.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A target of the agent. It is passed explicitly on every host because with `--target`, cargo does
/// not apply `RUSTFLAGS` to build scripts and proc macros, and a proc macro cannot be linked with
/// `crt-static`.
struct Target {
    /// Rust's name.
    name: &'static str,
    /// The variable of the harness's build that has the agent's path.
    variable: &'static str,
    /// The linker on hosts of another architecture, if the agent is built there only where it can be.
    cross_linker: Option<&'static str>,
}

const TARGETS: [Target; 2] = [
    Target { name: "x86_64-unknown-linux-gnu", variable: "HOTPLUG_AGENT", cross_linker: None },
    Target {
        name: "powerpc64le-unknown-linux-gnu",
        variable: "HOTPLUG_AGENT_PPC64LE",
        cross_linker: Some("powerpc64le-linux-gnu-gcc"),
    },
];

/// The workspace's root. Cargo runs a build script in the folder of its package.
const ROOT: &str = "..";

/// Folders that the harness's binary includes (`known_bugs/suite.rs`). `include_dir!` does not
/// report the files that it reads.
const CARRIED: [&str; 3] = ["guest-images/patches", "guest-images/configs", "scenarios"];

/// Inputs of the agent's build, relative to [`ROOT`].
const SOURCES: [&str; 4] = ["Cargo.toml", "Cargo.lock", "guest-images/agent", "protocol"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES.into_iter().chain(CARRIED) {
        println!("cargo::rerun-if-changed={}", Path::new(ROOT).join(source).display());
    }
    for target in TARGETS {
        match agent(&target) {
            Ok(agent) => println!("cargo::rustc-env={}={}", target.variable, agent.display()),
            // Cargo ends the build on this line and shows the message without the script's other
            // output.
            Err(what) => println!("cargo::error=the guest's agent could not be built: {what}"),
        }
    }
}

/// The path of the agent for a target, or of an empty file if it cannot be had here.
fn agent(target: &Target) -> Result<PathBuf, String> {
    let is_of_the_host = variable("HOST")? == target.name;
    let linker = target.cross_linker.filter(|_| !is_of_the_host);
    if let Some(linker) = linker
        && !(has_target(target.name)? && is_on_the_path(linker))
    {
        let none = Path::new(&variable("OUT_DIR")?).join("no-agent");
        std::fs::write(&none, "").map_err(|error| format!("{}: {error}", none.display()))?;
        return Ok(none);
    }
    build(target, linker)
}

/// Whether rustc has the standard library of a target. The build script runs again once rustup has
/// added or removed a component.
fn has_target(name: &str) -> Result<bool, String> {
    let output = Command::new(variable("RUSTC")?).args(["--print", "sysroot"]).output();
    let output = output.map_err(|error| format!("rustc does not start: {error}"))?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let targets = Path::new(sysroot.trim()).join("lib/rustlib");
    println!("cargo::rerun-if-changed={}", targets.join("components").display());
    Ok(targets.join(name).join("lib").is_dir())
}

/// Whether a linker is there. If it is not, the build script runs again once programs were installed.
/// It does not follow `PATH`, which differs among the callers of cargo: each change would compile the
/// harness again.
fn is_on_the_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !is_there {
        println!("cargo::rerun-if-changed=/usr/bin");
    }
    is_there
}

fn build(target: &Target, linker: Option<&str>) -> Result<PathBuf, String> {
    // The inner build has its own target folder, because the outer cargo holds the lock on its
    // target folder until this script ends.
    let target_dir = Path::new(&variable("OUT_DIR")?).join("agent");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(ROOT);
    for (name, _) in env::vars_os().filter(|(name, _)| concerns_the_outer_build(name)) {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    if let Some(linker) = linker {
        let name = target.name.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
    }
    cargo.args([
        "build",
        "--package=hotplug-agent",
        "--profile=agent",
        "--locked",
        "--quiet",
        "--target",
        target.name,
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
            format!("; help: rustup target add {}", target.name)
        } else if text.contains("cannot find -lc") {
            "; help: install the C library's static form (Debian: libc6-dev)".to_owned()
        } else {
            String::new()
        };
        return Err(format!("{}{help}", output.status));
    }
    Ok(target_dir.join(target.name).join("agent").join("hotplug-agent"))
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
