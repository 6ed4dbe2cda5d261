//! The queries of the history.

use rusqlite::{Row, params};

use super::{History, broken};
use crate::Result;
use crate::compare::Count;

/// A run, in short.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// The name of the run's folder.
    pub id: String,
    /// When the run began, in UTC.
    pub started: String,
    /// The run's scenario.
    pub scenario: String,
    /// `uname -r` of the before kernel.
    pub release: String,
    /// The run's patches, one on each line.
    pub patches: String,
    /// The run's verdict, if it has one.
    pub verdict: Option<String>,
    /// Trials of both sides.
    pub trials: (u32, u32),
}

/// A scenario, over all its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioRow {
    /// The scenario's name.
    pub scenario: String,
    /// The number of runs.
    pub runs: u32,
    /// The number of runs that regressed.
    pub regressed: u32,
    /// When the last run began.
    pub last: String,
}

/// The figures of a metric without a patch, run by run.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSeries {
    /// The metric.
    pub metric: String,
    /// The clock, accelerator, QEMU, machine and kernel release of all points.
    pub ground: String,
    /// The run's folder and the nanoseconds of each run, the oldest first.
    pub points: Vec<(String, f64)>,
}

/// A finding, over all runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bug {
    /// The finding's signature.
    pub signature: String,
    /// The title of the last run that showed it, in one line.
    pub title: String,
    /// When the first run that showed it began.
    pub first: String,
    /// When the last run that showed it began.
    pub last: String,
    /// The number of runs that showed it.
    pub runs: u32,
    /// The trials without the patches, over all runs that showed it.
    pub before: Count,
    /// The trials with the patches, over all runs that showed it.
    pub after: Count,
}

impl History {
    /// All scenarios, the latest first.
    pub fn scenarios(&self) -> Result<Vec<ScenarioRow>> {
        self.all(
            "SELECT scenario, count(*), sum(verdict = 'REGRESSED'), max(started) FROM run GROUP BY scenario ORDER BY 4 DESC",
            &[],
            |row| {
                Ok(ScenarioRow {
                    scenario: row.get(0)?,
                    runs: row.get(1)?,
                    regressed: row.get::<_, Option<u32>>(2)?.unwrap_or(0),
                    last: row.get(3)?,
                })
            },
        )
    }

    /// The last `most` runs, the latest first: all of them, or those of `scenario`.
    pub fn runs(&self, scenario: Option<&str>, most: u32) -> Result<Vec<RunRow>> {
        self.all(
            "SELECT id, started, scenario, release, patches, verdict, trials_before, trials_after FROM run
             WHERE ?1 IS NULL OR scenario = ?1 ORDER BY started DESC LIMIT ?2",
            params![scenario, most],
            run,
        )
    }

    /// The last `most` runs that showed a finding, the latest first.
    pub fn runs_with(&self, signature: &str, most: u32) -> Result<Vec<RunRow>> {
        self.all(
            "SELECT id, started, scenario, release, patches, verdict, seen_before || '', seen_after || '' FROM run
             JOIN finding ON finding.run = run.id WHERE signature = ?1 ORDER BY started DESC LIMIT ?2",
            params![signature, most],
            |row| {
                let count = |at| row.get::<_, String>(at).map(|text| text.parse().unwrap_or(0));
                Ok(RunRow { trials: (count(6)?, count(7)?), ..head(row)? })
            },
        )
    }

    /// The findings whose signature begins with `signature`, the latest first: of all scenarios, or
    /// of `scenario`.
    pub fn bugs(&self, signature: &str, scenario: Option<&str>, most: u32) -> Result<Vec<Bug>> {
        // With `max(started)`, SQLite takes the other columns from that row (lang_select.html, bare
        // columns).
        self.all(
            "SELECT signature, title, min(started), max(started), count(*), sum(seen_before), sum(of_before),
                    sum(seen_after), sum(of_after)
             FROM (SELECT finding.*, started FROM finding JOIN run ON run.id = finding.run
                   WHERE substr(signature, 1, length(?1)) = ?1 AND (?2 IS NULL OR scenario = ?2) ORDER BY started)
             GROUP BY signature ORDER BY 4 DESC LIMIT ?3",
            params![signature, scenario, most],
            |row| {
                Ok(Bug {
                    signature: row.get(0)?,
                    title: row.get(1)?,
                    first: row.get(2)?,
                    last: row.get(3)?,
                    runs: row.get(4)?,
                    before: Count { seen: row.get(5)?, trials: row.get(6)? },
                    after: Count { seen: row.get(7)?, trials: row.get(8)? },
                })
            },
        )
    }

    /// The figures of kernels without patches in a scenario, metric by metric.
    pub fn series(&self, scenario: &str) -> Result<Vec<MetricSeries>> {
        let rows = self.all(
            "SELECT name, ground || ', kernel ' || release, id, nanoseconds FROM metric JOIN run ON run.id = metric.run
             WHERE scenario = ?1 AND side = 'before' ORDER BY name, ground, release, started",
            params![scenario],
            |row| Ok((row.get(0)?, row.get(1)?, (row.get(2)?, row.get(3)?))),
        )?;
        let mut all: Vec<MetricSeries> = Vec::new();
        for (metric, ground, point) in rows {
            match all.last_mut() {
                Some(series) if series.metric == metric && series.ground == ground => {
                    series.points.push(point);
                }
                _ => all.push(MetricSeries { metric, ground, points: vec![point] }),
            }
        }
        Ok(all)
    }

    fn all<T>(
        &self,
        sql: &str,
        parameters: &[&dyn rusqlite::ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let rows = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.0.prepare(sql)?;
            statement.query_map(parameters, read)?.collect()
        };
        rows().map_err(broken)
    }
}

fn head(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: row.get(0)?,
        started: row.get(1)?,
        scenario: row.get(2)?,
        release: row.get(3)?,
        patches: row.get(4)?,
        verdict: row.get(5)?,
        trials: (0, 0),
    })
}

fn run(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow { trials: (row.get(6)?, row.get(7)?), ..head(row)? })
}
