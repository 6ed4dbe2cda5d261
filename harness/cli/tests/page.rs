//! The page of a real run in Chromium: the reference run, and other recorded runs, one of them with
//! earlier runs in its history.
//!
//! Screenshots of each page, scheme and width go to `target/tmp/page/`.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headless_chrome::protocol::cdp::{Emulation, Page};
use headless_chrome::{Browser, LaunchOptions, Tab};
use serde_json::Value;
use tempfile::TempDir;

#[path = "common/kept.rs"]
mod kept;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const AXE: &str = include_str!("fixtures/axe/axe.min.js");

fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    places.into_iter().find(|place| place.is_file()).expect("chromium, which `make test` installs")
}

fn browser() -> Browser {
    // Only this test uses the browser, and it needs no network.
    let quiet = ["--disable-component-update", "--disable-quic", "--hide-scrollbars"];
    let options = LaunchOptions::default_builder()
        .path(Some(chromium()))
        // Chromium's own sandbox does not work as root.
        .sandbox(!nix::unistd::geteuid().is_root())
        .idle_browser_timeout(Duration::from_secs(300))
        .args(quiet.iter().map(OsStr::new).collect())
        .build()
        .unwrap();
    Browser::new(options).unwrap()
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results/reference")
}

/// The page of a timed run, after eleven earlier runs of its scenario. From the seventh run on,
/// every metric is a tenth longer.
fn timed() -> (TempDir, PathBuf) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/results/timed-6.1");
    let this = "2026-11-27T17-16-57-timed";
    let (home, folder) = kept::home(&kept, this);
    let mut result = kept::result(&folder);
    for run in 0..12 {
        let day = run + 10;
        let (name, started) = if run == 11 {
            (this.to_owned(), "2026-11-27T17:16:57Z".to_owned())
        } else {
            (format!("2026-11-{day}T02-17-00-timed"), format!("2026-11-{day}T02:17:00Z"))
        };
        let earlier = home.path().join("results").join(&name);
        std::fs::create_dir_all(&earlier).unwrap();
        result["run"]["id"] = name.into();
        result["run"]["started"] = started.into();
        for metric in result["latency"]["metrics"].as_array_mut().unwrap() {
            metric["typical"]["before"] =
                (if run < 6 { 1e6 } else { 1.1e6 } * (1.0 + f64::from(run * 7 % 5) * 1e-3)).into();
        }
        std::fs::write(earlier.join("result.json"), result.to_string()).unwrap();
    }
    written(home, &folder)
}

/// The page of a run that is stored with the tests.
fn kept_page(fixture: &str, name: &str) -> (TempDir, PathBuf) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/results").join(fixture);
    let (home, folder) = kept::home(&kept, name);
    written(home, &folder)
}

/// The page of a run whose victims were stalled.
fn stalled() -> (TempDir, PathBuf) {
    kept_page("stalls-6.1", "2026-11-28T12-32-38-planted-slow-offline")
}

/// The page of a sweep that met a planted race.
fn swept() -> (TempDir, PathBuf) {
    kept_page("swept-6.1", "2026-11-29T00-47-32-planted-torn-count")
}

/// The page of a run whose scenario requires a race that never happened.
fn raced() -> (TempDir, PathBuf) {
    kept_page("raced-6.1", "2026-11-28T12-40-38-seed")
}

/// Writes the page of a run.
fn written(home: TempDir, folder: &Path) -> (TempDir, PathBuf) {
    kept::said(home.path(), &["history", "import", "results"]);
    let file = folder.join("report.html");
    std::fs::write(&file, kept::said(home.path(), &["report", "last", "--html"])).unwrap();
    (home, file)
}

/// The page of the reference run, after `change` of its result.
fn page(change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let (home, folder) = kept::home(&reference(), "2026-11-27T09-22-07-seed");
    let mut result = kept::result(&folder);
    change(&mut result);
    std::fs::write(folder.join("result.json"), result.to_string()).unwrap();
    written(home, &folder)
}

fn open(browser: &Browser, file: &Path) -> Arc<Tab> {
    let tab = browser.new_tab().unwrap();
    tab.set_default_timeout(Duration::from_secs(120));
    tab.navigate_to(&format!("file://{}", file.display())).unwrap().wait_until_navigated().unwrap();
    tab
}

/// The value of an expression, or of its promise. It must be representable in JSON.
fn ask(tab: &Tab, expression: &str) -> Value {
    let whole = format!("(async () => JSON.stringify(await ({expression}) ?? null))()");
    let told = tab.evaluate(&whole, true).unwrap().value.unwrap();
    serde_json::from_str(told.as_str().unwrap()).unwrap()
}

fn look(tab: &Tab, media: &str, scheme: &str, width: u32, height: u32) {
    let feature =
        Emulation::MediaFeature { name: "prefers-color-scheme".to_owned(), value: scheme.to_owned() };
    let media = Emulation::SetEmulatedMedia { media: Some(media.to_owned()), features: Some(vec![feature]) };
    tab.call_method(media).unwrap();
    let size = Emulation::SetDeviceMetricsOverride {
        width,
        height,
        device_scale_factor: 1.0,
        mobile: width < 500,
        scale: None,
        screen_width: None,
        screen_height: None,
        position_x: None,
        position_y: None,
        dont_set_visible_size: None,
        screen_orientation: None,
        viewport: None,
        display_feature: None,
        device_posture: None,
    };
    tab.call_method(size).unwrap();
}

fn picture(tab: &Tab, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&folder).unwrap();
    let format = Page::CaptureScreenshotFormatOption::Png;
    std::fs::write(folder.join(name), tab.capture_screenshot(format, None, None, true).unwrap()).unwrap();
}

#[test]
fn it_is_readable_in_both_schemes_on_phones_and_desks_and_by_everybody() {
    let browser = browser();
    for (name, (_home, file)) in [
        ("reference", page(|_| ())),
        ("timed", timed()),
        ("stalled", stalled()),
        ("raced", raced()),
        ("swept", swept()),
    ] {
        let tab = open(&browser, &file);
        ask(&tab, AXE.trim_end().trim_end_matches(';').trim_start_matches('!'));
        // The contents of all folded elements are checked, too.
        ask(&tab, "document.querySelectorAll('details').forEach(one => { one.open = true })");
        for scheme in ["light", "dark"] {
            for width in [390, 1280] {
                look(&tab, "screen", scheme, width, 900);
                let height = ask(&tab, "document.documentElement.scrollHeight").as_u64().unwrap();
                let wide = ask(&tab, "document.documentElement.scrollWidth").as_u64().unwrap();
                assert!(wide <= u64::from(width), "{name}: {wide} pixels in {width}");
                let paper = ask(&tab, "getComputedStyle(document.body).backgroundColor");
                assert_eq!(paper, if scheme == "light" { "rgb(255, 255, 255)" } else { "rgb(20, 24, 29)" });
                let broken = ask(
                    &tab,
                    "axe.run(document, { resultTypes: ['violations'] }).then(told => told.violations.map(one => \
                     [one.id, one.help, one.nodes.map(node => node.html + ' ' + node.failureSummary)]))",
                );
                assert_eq!(broken, serde_json::json!([]), "{name}, {scheme}, {width}: {broken:#}");
                look(&tab, "screen", scheme, width, u32::try_from(height.min(12_000)).unwrap());
                picture(&tab, &format!("{name}-{scheme}-{width}.png"));
            }
        }
        look(&tab, "print", "light", 800, 1100);
        assert_eq!(ask(&tab, "document.querySelector('button')?.checkVisibility() ?? false"), false);
        picture(&tab, &format!("{name}-print.png"));
    }
}

#[test]
fn earlier_runs_are_on_it_with_how_times_went() {
    let (_home, file) = timed();
    let browser = browser();
    let tab = open(&browser, &file);
    let past = "document.getElementById('past').parentElement";
    let trends = ask(&tab, &format!("{past}.querySelectorAll('svg.plot').length"));
    assert_eq!(trends, 5);
    let dots = ask(&tab, &format!("{past}.querySelector('svg.plot').querySelectorAll('circle').length"));
    assert_eq!(dots, 12);
    let said = ask(&tab, &format!("[...{past}.querySelectorAll('p')].map(one => one.textContent)"));
    let change = said[0].as_str().unwrap();
    assert!(change.starts_with("+10.0 % since 2026-11-16T02-17-00-timed, p = 0.00"), "{said}");
}

#[test]
fn it_can_be_clicked_through() {
    let (_home, file) = page(|_| ());
    let browser = browser();
    let tab = open(&browser, &file);
    look(&tab, "screen", "light", 1280, 900);
    // Each square opens its trial.
    let squares = ask(&tab, "document.querySelectorAll('.grid a').length").as_u64().unwrap();
    assert!(squares >= 4, "{squares}");
    for square in 0..squares {
        let link = format!("document.querySelectorAll('.grid a')[{square}]");
        let opened = format!(
            "new Promise(done => {{ {link}.click(); setTimeout(() => done(document.getElementById({link}.hash.slice(1))\
             .checkVisibility()), 50) }})"
        );
        assert_eq!(ask(&tab, &opened), true, "square {square}");
    }
    for place in 0..ask(&tab, "document.querySelectorAll('summary').length").as_u64().unwrap() {
        let toggled = format!(
            "(() => {{ const one = document.querySelectorAll('summary')[{place}], was = one.parentElement.open; \
             one.click(); return was !== one.parentElement.open }})()"
        );
        assert_eq!(ask(&tab, &toggled), true, "summary {place}");
    }
    // The time axis is stretched, moved, and reset.
    ask(&tab, "document.querySelectorAll('details').forEach(one => { one.open = true })");
    let bar = |name: &str| ask(&tab, &format!("document.querySelector('.bar [title=\"{name}\"]').click()"));
    let drawn = || ask(&tab, "document.querySelector('.timeline svg.time').outerHTML");
    let ticks = || {
        ask(
            &tab,
            "[...document.querySelectorAll('.timeline')[0].querySelectorAll('.tick')].map(one => parseFloat(one.textContent))",
        )
    };
    bar("whole trial");
    let (whole, axis) = (drawn(), ticks());
    bar("closer");
    let near = ticks();
    let span = |axis: &Value| axis[5].as_f64().unwrap() - axis[0].as_f64().unwrap();
    assert!((span(&near) * 2.0 - span(&axis)).abs() < 0.05, "{axis} {near}");
    bar("later");
    assert!(ticks()[0].as_f64() > near[0].as_f64(), "{near} {}", ticks());
    bar("whole trial");
    assert_eq!((ticks(), drawn()), (axis, whole));
    // Pointing at an operation shows its times.
    let told = ask(
        &tab,
        "(() => { const box = document.querySelector('.timeline'), one = box.querySelector('g.operation rect'); \
         one.dispatchEvent(new PointerEvent('pointermove', { bubbles: true })); return [box.querySelector('.told').textContent, \
         one.parentElement.querySelector('title').textContent] })()",
    );
    assert!(told[0] == told[1] && told[0].as_str().unwrap().contains("asked at"), "{told}");
    ask(&tab, "document.querySelector('pre.copy').previousElementSibling.click()");
    let label = ask(
        &tab,
        "new Promise(done => setTimeout(() => done(document.querySelector('pre.copy').previousElementSibling.textContent), 100))",
    );
    assert!(label == "copied" || label == "selected: press Ctrl-C", "{label}");
    picture(&tab, "clicked.png");
}

#[test]
fn stalls_are_on_the_guests_axis_of_time() {
    let (_home, file) = stalled();
    let browser = browser();
    let tab = open(&browser, &file);
    let heads = ask(
        &tab,
        "[...document.querySelectorAll('h3')].map(one => one.textContent).filter(one => one.startsWith('Stalls of the victims'))",
    );
    let expected = ["before: boot 2, trial before-001", "after: boot 2, trial after-001"]
        .map(|which| format!("Stalls of the victims, {which}"));
    assert_eq!(heads, serde_json::json!(expected));
    let stalls = ask(&tab, "document.querySelectorAll('rect.stall').length").as_u64().unwrap();
    let listed = ask(
        &tab,
        "[...document.querySelectorAll('summary')].filter(one => one.textContent.startsWith('the longest of them'))\
         .map(one => one.parentElement.querySelectorAll('tbody tr').length)",
    );
    let listed: u64 = listed.as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    assert!(stalls > 0 && listed == stalls, "{stalls} drawn, {listed} listed");
    // The creation of a slab cache waited while a CPU went down.
    let told = ask(
        &tab,
        "(() => { const one = [...document.querySelectorAll('rect.stall')].find(one => /slab cache.*_cpu_down/.test(one.parentElement\
         .textContent)), box = one.closest('.timeline'); one.dispatchEvent(new PointerEvent('pointermove', { bubbles: true })); \
         return box.querySelector('.told').textContent })()",
    );
    let told = told.as_str().unwrap();
    assert!(told.starts_with("slab cache at ") && told.ends_with(", while _cpu_down() ran"), "{told}");
}

/// A sweep with a planted race, one of whose places exists in one kernel only.
#[test]
fn what_was_swept_is_a_table() {
    let (_home, file) = swept();
    let browser = browser();
    let tab = open(&browser, &file);
    let rows = ask(
        &tab,
        "[...document.querySelectorAll('section[aria-labelledby=race] tbody tr')].map(row => [...row.children].map(one => one.textContent))",
    );
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 18);
    let planted = serde_json::json!(["zone_device_add_bytes?", "cpu_device_up", "no such place 2", "met 2"]);
    assert!(rows.contains(&planted), "{rows:#?}");
    let met = ask(&tab, "document.querySelectorAll('section[aria-labelledby=race] td.met').length");
    let words = rows.iter().flat_map(|row| row.as_array().unwrap());
    assert_eq!(met, words.filter(|cell| cell.as_str().unwrap().starts_with("met ")).count());
}

#[test]
fn what_met_is_a_matrix() {
    let (_home, file) = raced();
    let browser = browser();
    let tab = open(&browser, &file);
    let cells = ask(
        &tab,
        "[...document.querySelectorAll('.matrix td[title]')].map(one => [one.textContent, one.title.split(':')[0], one.matches('.wanted')])",
    );
    let expected = serde_json::json!([
        ["8 → 8", "refresh_zone_stat_thresholds and _cpu_up", false],
        ["0 → 0", "takedown_cpu and mem_hotplug_begin..mem_hotplug_done", true]
    ]);
    assert_eq!(cells, expected);
    let said =
        ask(&tab, "document.querySelector('#overlap').parentElement.querySelector('p.odd').textContent");
    assert_eq!(
        said,
        "Raced by the scenario, but never overlapped on either side: mem_hotplug_begin..mem_hotplug_done and takedown_cpu."
    );
}

/// Text from a guest or from the author of a scenario is shown as text.
#[test]
fn nothing_of_a_guest_runs() {
    const HOSTILE: &str = "</title></style></pre><script>window.owned = 1</script><img src=x onerror='window.owned = 1'>\
        <svg onload='window.owned = 1'>\u{1b}[31m";
    let (_home, file) = page(|result| {
        result["reason"] = HOSTILE.into();
        result["run"]["scenario"] = HOSTILE.into();
        result["run"]["patches"] = serde_json::json!([HOSTILE]);
        for finding in result["reports"].as_array_mut().unwrap() {
            for key in ["title", "key", "during", "known"] {
                finding[key] = HOSTILE.into();
            }
            finding["call_path"][0]["function"] = HOSTILE.into();
        }
    });
    let browser = browser();
    let tab = open(&browser, &file);
    assert_eq!(ask(&tab, "window.owned"), Value::Null);
    assert_eq!(ask(&tab, "document.querySelectorAll('script').length"), 1);
    assert_eq!(ask(&tab, "document.querySelectorAll('img:not([src^=\"data:\"])').length"), 0);
    // Even if a script is inserted, the page's Content-Security-Policy does not run it.
    let forced = "new Promise(done => { const one = document.createElement('script'); one.textContent = 'window.owned = 1'; \
        document.body.append(one); setTimeout(() => done(window.owned), 100) })";
    assert_eq!(ask(&tab, forced), Value::Null);
}

/// Without its script the page has the same content.
#[test]
fn without_scripts_it_still_tells_all() {
    let (_home, file) = page(|_| ());
    let browser = browser();
    let with = open(&browser, &file);
    let without = browser.new_tab().unwrap();
    without.call_method(Emulation::SetScriptExecutionDisabled { value: true }).unwrap();
    without.navigate_to(&format!("file://{}", file.display())).unwrap().wait_until_navigated().unwrap();
    let text = |tab: &Tab| {
        let open = "document.querySelectorAll('details').forEach(one => { one.open = true })";
        ask(tab, open);
        ask(
            tab,
            "[...document.querySelectorAll('header, section')].map(one => [...one.querySelectorAll('p:not(.told), pre, td, th, h2, h3, title')]\
            .map(part => part.textContent))",
        )
    };
    assert_eq!(ask(&without, "document.querySelectorAll('button').length"), 0);
    assert!(ask(&with, "document.querySelectorAll('button').length").as_u64() > Some(4));
    assert_eq!(text(&without), text(&with));
}
