//! What a guest did, as scenarios that another guest can do.

use std::collections::BTreeMap;
use std::path::Path;

use crate::environment::kept_scenario;
use crate::files::read_json_if_there;
use crate::record::Run;
use crate::scenario::{Scenario, flatten};
use crate::trial::TrialRecord;
use crate::{Error, Result};

/// Reads what the guests of a run did.
#[derive(Debug)]
pub(crate) struct GuestWork<'a> {
    folder: &'a Path,
    run: &'a Run,
    /// The scenarios that were read so far, by name.
    scenarios: BTreeMap<String, Scenario>,
}

impl<'a> GuestWork<'a> {
    /// Of the run in `folder`.
    pub(crate) fn new(folder: &'a Path, run: &'a Run) -> Self {
        Self { folder, run, scenarios: BTreeMap::new() }
    }

    /// What the guest did whose last trial is in this folder below `trials/`: one scenario for each of
    /// its trials, with the operations written out. The trials of a scenario without random lanes do the
    /// same operations, so the last one stands for all.
    pub(crate) fn of(&mut self, trial: &str) -> Result<Vec<Scenario>> {
        let last = self.record(trial)?;
        let earlier: Vec<TrialRecord> =
            last.earlier.iter().map(|trial| self.record(trial)).collect::<Result<_>>()?;
        let scenario = self.scenario(&last.scenario)?;
        let earlier = earlier.iter().filter(|_| scenario.random.is_some());
        Ok(earlier.chain([&last]).map(|trial| flatten(scenario, &trial.schedule)).collect())
    }

    fn record(&self, trial: &str) -> Result<TrialRecord> {
        let path = self.folder.join("trials").join(trial).join("trial.json");
        read_json_if_there(&path)?
            .ok_or_else(|| Error::infrastructure(format!("{} is missing", path.display())))
    }

    fn scenario(&mut self, name: &str) -> Result<&Scenario> {
        if !self.scenarios.contains_key(name) {
            let (scenario, _) = kept_scenario(self.folder, self.run, name)?;
            self.scenarios.insert(name.to_owned(), scenario);
        }
        Ok(&self.scenarios[name])
    }
}
