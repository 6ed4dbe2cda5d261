//! Judges a patch through the library, by five trials of each kernel in one scenario, and prints
//! the verdict: `cargo run --release --example judge -- my.patch`

#![expect(clippy::print_stdout, reason = "the verdict is its output")]

use hotplug::comparison::{
    AnalysesSpec, ComparisonSpec, Env, RunningSpec, ScenarioChoice, TrialsSpec, prepare, run,
};
use hotplug::events::Quiet;
use hotplug::kernel::{Cache, PairSpec};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> hotplug::Result<()> {
    let patches = std::env::args().skip(1).map(Into::into).collect();
    let spec = ComparisonSpec {
        kernels: PairSpec { patches, ..PairSpec::default() },
        // The default runs the portfolio.
        scenarios: ScenarioChoice::one(None),
        trials: TrialsSpec { end: Some(5), ..TrialsSpec::default() },
        // Only the trials. The default runs the control and every analysis, too.
        analyses: AnalysesSpec::none(),
        running: RunningSpec { results: "results".into(), ..RunningSpec::default() },
        ..ComparisonSpec::default()
    };
    let cache = Cache::open(Cache::default_path()?)?;
    let cancel = CancellationToken::new();
    let env = Env { cache: &cache, events: &Quiet, cancel: &cancel, command: &[], settings: &[] };
    let result = run(prepare(&spec, &env).await?, &env).await?.result;
    println!("{:?}: {}", result.verdict, result.reason);
    for finding in &result.reports {
        println!("before {}, after {}: {}", finding.before, finding.after, finding.title);
    }
    Ok(())
}
