//! The results of earlier runs: a database next to the results. It is made from `result.json`
//! files, and can be made again from them at any time.
//!
//! The database is `SQLite` in WAL mode. A run that is killed leaves it consistent, and two runs
//! that end at once wait for each other.

mod past;
mod trend;

use std::path::Path;
use std::time::{Duration, Instant};

use hotplug_side::Side;
use rusqlite::{Connection, params};

use crate::record::RunResult;
use crate::{Error, Result};

pub use past::{Bug, MetricSeries, RunRow, ScenarioRow};
pub use trend::{LevelChange, changes};

/// The name of the database file, below the folder of the results.
pub const FILE: &str = "history.sqlite";

/// The longest wait of a writer for another writer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What each version adds to the one before it. The version of a database is the number of
/// migrations that it has (`PRAGMA user_version`).
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE run (
        id TEXT PRIMARY KEY,
        started TEXT NOT NULL,
        scenario TEXT NOT NULL,
        source TEXT NOT NULL,
        release TEXT NOT NULL,
        patches TEXT NOT NULL,
        verdict TEXT,
        reason TEXT NOT NULL,
        trials_before INTEGER NOT NULL,
        trials_after INTEGER NOT NULL,
        seconds REAL NOT NULL
    ) STRICT;
    CREATE INDEX run_by_scenario ON run (scenario, started);
    CREATE TABLE finding (
        run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
        signature TEXT NOT NULL,
        kind TEXT NOT NULL,
        title TEXT NOT NULL,
        seen_before INTEGER NOT NULL,
        of_before INTEGER NOT NULL,
        seen_after INTEGER NOT NULL,
        of_after INTEGER NOT NULL,
        known TEXT,
        PRIMARY KEY (run, signature)
    ) STRICT;
    CREATE INDEX finding_by_signature ON finding (signature);
    CREATE TABLE metric (
        run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        side TEXT NOT NULL,
        -- Clock, accelerator, QEMU, machine: only what is alike in all of them is one series.
        ground TEXT NOT NULL,
        nanoseconds REAL NOT NULL,
        PRIMARY KEY (run, name, side)
    ) STRICT;
    CREATE INDEX metric_by_name ON metric (name, ground);
"];

/// The history of one folder of results.
#[derive(Debug)]
pub struct History(Connection);

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn broken(error: rusqlite::Error) -> Error {
    Error::infrastructure(format!("the history cannot be read or written: {error}"))
}

impl History {
    /// Opens the history of the results in `folder`, if there is one.
    pub fn there(folder: &Path) -> Result<Option<Self>> {
        folder.join(FILE).is_file().then(|| Self::open(folder)).transpose()
    }

    /// Opens the history of the results in `folder`, or creates it. The folder itself is not
    /// created, because a folder that was removed must not reappear.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let mut connection = Connection::open(&path).map_err(broken)?;
        connection.busy_timeout(PATIENCE).map_err(broken)?;
        use_wal(&connection).map_err(broken)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(broken)?;
        migrate(&mut connection, &path)?;
        Ok(Self(connection))
    }

    /// Adds a run. A run that is there already is replaced.
    pub fn add(&mut self, result: &RunResult) -> Result<()> {
        self.put(result).map_err(broken)
    }

    fn put(&mut self, result: &RunResult) -> rusqlite::Result<()> {
        let run = &result.run;
        // The transaction is a writer from the start. One that first reads and then writes cannot
        // wait for another writer (SQLITE_BUSY_SNAPSHOT).
        let all = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        all.execute("DELETE FROM run WHERE id = ?1", [&run.id])?;
        all.execute(
            "INSERT INTO run VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                run.id,
                run.started.to_string(),
                run.scenario,
                run.kernels.before.source,
                run.kernels.before.release,
                run.patches.join("\n"),
                result.verdict.map(|verdict| verdict.to_string()),
                result.reason,
                result.trials.before.trials,
                result.trials.after.trials,
                result.trials_seconds,
            ],
        )?;
        for finding in &result.reports {
            all.execute(
                "INSERT OR REPLACE INTO finding VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    run.id,
                    finding.signature,
                    finding.kind,
                    finding.title,
                    finding.before.seen,
                    finding.before.trials,
                    finding.after.seen,
                    finding.after.trials,
                    finding.known,
                ],
            )?;
        }
        if let Some(latency) = &result.latency {
            let host = &run.host;
            let ground = format!(
                "{} clock, {}, QEMU {}, {}",
                latency.clock,
                host.accelerator,
                host.qemu,
                host.machine()
            );
            for metric in latency.metrics.iter().filter(|metric| metric.none.is_none()) {
                for side in Side::BOTH {
                    all.execute(
                        "INSERT OR REPLACE INTO metric VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![run.id, metric.name, side.to_string(), ground, metric.typical.of(side)],
                    )?;
                }
            }
        }
        all.commit()
    }
}

/// Migrates the database to this version. A database of a newer version is not changed.
fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    // If two processes migrate at once, one waits and then finds the migration done.
    let all =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(broken)?;
    let has: usize = all.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(broken)?;
    if has > MIGRATIONS.len() {
        return Err(Error::user(format!("{} was written by a newer version of hotplug", path.display()))
            .help("use that version, or move the file away and run hotplug history import"));
    }
    for sql in &MIGRATIONS[has..] {
        all.execute_batch(sql).map_err(broken)?;
    }
    all.pragma_update(None, "user_version", MIGRATIONS.len()).map_err(broken)?;
    all.commit().map_err(broken)
}

/// Sets the journal mode. While another connection sets that of the same new database, `SQLite`
/// reports that it is locked at once, whatever the busy timeout (1 of 40 runs of
/// `two_writers_wait_for_one_another`). It has no event for the end of that, and its own timeout
/// polls, too.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && began.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
