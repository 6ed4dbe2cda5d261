//! A breakpoint that the kernel does not handle, in a guest of TCG: the emulator's fault, the
//! kernel's, or of unknown origin.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::world::{Edit, Toy, WARNS};

/// A function with the jump of a static key at its 13th byte, of which some guests die.
const KEY: Edit = Edit { file: WARNS.file, old: WARNS.old, new: KEYED };
const KEYED: &str = concat!(
    "\tHAPPENS(\"plug dimm; 0.3; report int3\");\n",
    "\tasm volatile(\".pushsection .text; .globl folio_add_lru; .type folio_add_lru, @function\\n\"\n",
    "\t\t\"folio_add_lru: .nops 12; 1: .byte 0x0f, 0x1f, 0x44, 0, 0; ret; .nops 14\\n\"\n",
    "\t\t\".size folio_add_lru, . - folio_add_lru; .popsection\\n\"\n",
    "\t\t\".pushsection .rodata; .globl __start___jump_table, __stop___jump_table\\n\"\n",
    "\t\t\"__start___jump_table: .long 1b - ., 0; .quad 0; __stop___jump_table: .popsection\");\n\n",
    "\treturn pfn > nr_pages;\n"
);
/// The jump is elsewhere.
const ELSEWHERE: Edit = Edit { file: KEY.file, old: ".nops 12;", new: ".nops 11;" };

/// Ten trials a side of the toy with itself, whose guests draw their events one after the other.
fn compare(toy: &Toy) -> assert_cmd::Command {
    let mut command = toy.compare(None);
    command.args(["--trials", "10", "--rounds", "1"]);
    command.env("HOTPLUG_FAKE_DRAWS", toy.count_guests());
    command
}

fn screen(command: &mut assert_cmd::Command, status: i32) -> String {
    String::from_utf8(command.assert().code(status).get_output().stdout.clone()).unwrap()
}

#[test]
fn a_stale_breakpoint_of_the_emulator_is_tried_again_and_counted() {
    let toy = Toy::new();
    toy.commit("a static key", KEY);
    let screen = screen(&mut compare(&toy), 0);
    let result = toy.run.result();
    assert_eq!(result["verdict"], "unchanged", "{screen}");
    assert_eq!((&result["reports"], &result["remarks"]), (&json!([]), &json!([])), "{result:#}");
    let repeated = result["repeated"].as_array().unwrap();
    assert!(!repeated.is_empty(), "no guest died: {screen}");
    let why = "the emulator ran a breakpoint that the kernel had removed, at folio_add_lru+0xc, the jump of a static key";
    for one in repeated {
        assert_eq!((&one["outcome"], &one["why"]), (&json!("infrastructure"), &json!(why)));
        let trial = toy.run.trial(one["folder"].as_str().unwrap());
        assert_eq!(trial["stale_breakpoint"]["emulator"]["at"], "folio_add_lru+0xc", "{trial:#}");
        // What the kernel printed is still there to be looked at.
        assert_eq!(trial["reports"][0]["first"]["detail"], "int3");
    }
    let faults = |side: &str| result["trials"][side]["emulator_faults"].as_u64().unwrap();
    let (before, after) = (faults("before"), faults("after"));
    // A trial whose guests died three times is spoilt.
    let spoilt = |side: &str| result["trials"][side]["infrastructure"].as_u64().unwrap();
    assert_eq!(before + after, repeated.len() as u64 + spoilt("before") + spoilt("after"));
    assert!(screen.contains(&format!("{before} + {after} fault")), "{screen}");
    for form in ["--mail", "--html"] {
        let mut text = toy.hotplug(&["report", "last", form]);
        let text = self::screen(text.arg("--results").arg(toy.run.results()), 0);
        assert!(text.contains("of the emulator"), "{form}: {text}");
    }
}

#[test]
fn a_breakpoint_elsewhere_is_a_finding_and_one_of_unknown_origin_is_remarked_on() {
    let toy = Toy::new();
    toy.commit("a static key", KEY);
    toy.commit("elsewhere", ELSEWHERE);
    let found = |result: &Value| {
        assert_eq!(result["repeated"], json!([]), "{result:#}");
        assert_eq!(result["reports"][0]["title"], "int3 in folio_add_lru", "{result:#}");
    };
    // Both sides have it, or chance let only one show it.
    let output = compare(&toy).output().unwrap();
    assert!([Some(0), Some(3)].contains(&output.status.code()), "{output:?}");
    found(&toy.run.result());
    assert_eq!(toy.run.result()["remarks"], json!([]));

    // The same image without its vmlinux.
    let image = toy.run.json("run.json")["kernels"]["before"]["image"].as_str().unwrap().to_owned();
    let alone = toy.path("alone/bzImage");
    std::fs::create_dir(alone.parent().unwrap()).unwrap();
    std::fs::copy(image, &alone).unwrap();
    std::fs::set_permissions(&alone, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::remove_dir_all(toy.run.folder()).unwrap();
    std::fs::remove_dir_all(toy.path("draws")).unwrap();
    let mut command = toy.run.compare();
    toy.settle_in(&mut command);
    command.arg("--before-image").arg(&alone).arg("--after-image").arg(&alone);
    command.arg("--scenario").arg(toy.path("toy.toml")).args(["--accel", "tcg"]);
    command.args(["--trials", "10", "--rounds", "1"]);
    let output = command.env("HOTPLUG_FAKE_DRAWS", toy.count_guests()).output().unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!([Some(0), Some(3)].contains(&output.status.code()), "{output:?}");
    let result = toy.run.result();
    found(&result);
    let remark = result["remarks"][0].as_str().unwrap();
    assert!(remark.starts_with("int3 at folio_add_lru+0xc: the kernel or the emulator (TCG)"), "{remark}");
    assert!(screen.contains("note   int3 at folio_add_lru+0xc: "), "{screen}");
    for form in ["--mail", "--html"] {
        let mut text = toy.hotplug(&["report", "last", form]);
        let text = self::screen(text.arg("--results").arg(toy.run.results()), 0);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("was given without a vmlinux"), "{form}: {text}");
    }
}
