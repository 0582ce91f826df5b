//! `moexperts bench sweep` and `moexperts bench report`.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use moexperts_report::{Key, Results};

use crate::program::{BACKENDS, MODEL, Program, Run};

/// A sweep of a moment, where nothing else is said.
const SMALL: [[&str; 2]; 5] = [
    ["--batch", "1,2"],
    ["--seq", "3"],
    ["--new-tokens", "3"],
    ["--repetitions", "2"],
    ["--threads", "1"],
];

fn words<'a>(out: &'a Path, words: &[&'a str]) -> Vec<&'a str> {
    let small = SMALL.iter().filter(|[flag, _]| !words.contains(flag)).flatten().copied();
    let out = ["--out", out.to_str().unwrap()];
    ["bench", "sweep"].into_iter().chain(words.iter().copied()).chain(small).chain(out).collect()
}

fn sweep(out: &Path, flags: &[&str]) -> Run {
    Program::new(&words(out, flags)).run()
}

fn results(out: &Path) -> Results {
    Results::read(&out.join("results.json")).unwrap()
}

/// What is measured, without the device and the dtype.
fn keys(results: &Results) -> Vec<(usize, usize, usize, &str, &str)> {
    let key = |key: &'_ Key| (key.batch, key.sequence, key.new_tokens);
    let cells = results.cells.iter().map(|cell| {
        let (batch, sequence, new_tokens) = key(&cell.key);
        (batch, sequence, new_tokens, cell.key.compile.as_str(), cell.key.implementation.as_str())
    });
    cells.collect()
}

#[track_caller]
fn succeeded(run: &Run) {
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
}

#[test]
fn the_embedded_model_has_a_cell_for_every_combination() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("not/there/yet");
    let run = sweep(&out, &["--compile", "none,default", "--experts-implementation", "all"]);
    succeeded(&run);

    let results = results(&out);
    let mut expected = Vec::new();
    for batch in [1, 2] {
        for compile in ["none", "default"] {
            expected.extend(BACKENDS.map(|backend| (batch, 3, 3, compile, backend)));
        }
    }
    assert_eq!(keys(&results), expected);
    assert_eq!((results.planned, results.complete_cells()), (12, 12));
    assert_eq!(results.model, "rust-book-moe (in the program)");
    assert!(
        results.command.starts_with("moexperts bench sweep --compile none,default "),
        "{}",
        results.command
    );
    assert!(results.program.commit.is_none_or(|commit| commit.len() >= 12));
    let [target] = results.targets.as_slice() else { panic!("{:?}", results.targets) };
    assert_eq!((target.device.as_str(), target.dtype.as_str()), ("cpu", "bf16"));
    assert_eq!(target.threads, Some(1));
    assert!(target.notes[0].starts_with("compiled default: "), "{:?}", target.notes);
    for cell in &results.cells {
        assert_eq!(cell.runs(), 2);
        for (whole, parts) in
            cell.generation_ms.iter().zip(cell.prefill_ms.iter().zip(&cell.decode_ms))
        {
            assert!(*whole >= 0.999 * (parts.0 + parts.1), "{cell:?}");
        }
        assert_eq!((cell.prefill.forwards, cell.decode.forwards), (1, 2));
        assert_eq!(cell.decode.flops / results.cells[0].decode.flops, cell.key.batch as f64);
        assert_eq!(cell.decode_implementation, cell.key.implementation);
        if cfg!(target_os = "linux") {
            assert!(cell.peak_memory_bytes.unwrap() > 1 << 20);
        }
    }

    let rows: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() > 10 && BACKENDS.contains(&words[0]))
        .collect();
    assert_eq!(rows.len(), 12);
    assert_eq!(rows[4][..5], ["batched_mm", "default", "1", "3", "3"]);
    let mut files: Vec<_> = fs::read_dir(&out).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["report.html", "results.csv", "results.json", "results.md"]);
    let read = |file: &str| fs::read_to_string(out.join(file)).unwrap();
    assert_eq!(read("results.csv").lines().count(), 13);
    assert_eq!(read("results.md").matches("| default | grouped_mm |").count(), 3 * 2);
    assert!(read("report.html").contains("\"implementation\":\"batched_mm\""));
}

#[test]
fn what_is_complete_is_not_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let words = ["--experts-implementation", "eager", "--compile", "none,default"];
    succeeded(&sweep(out, &words));
    let first = results(out);

    let again = sweep(out, &[]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        again.stderr,
        format!(
            "error: `{}` has results already\nhint: --resume goes on with them; another --out \
             starts anew\n",
            out.display()
        )
    );
    assert_eq!(results(out), first, "nothing is lost");

    // More of everything: what was measured stays as it was, and comes first in its cell.
    let more = ["--resume", "--repetitions", "3", "--seq", "3,4", "--compile", "none,default"];
    succeeded(&sweep(out, &more));
    let second = results(out);
    assert_eq!((second.planned, second.complete_cells()), (24, 24));
    assert_eq!(second.targets[0].notes, first.targets[0].notes, "nor is it said again");
    for cell in &first.cells {
        let now = second.cells.iter().find(|now| now.key == cell.key).unwrap();
        assert_eq!((&now.generation_ms[..2], now.runs()), (&cell.generation_ms[..], 3));
    }
    assert!(second.targets[0].bytes_per_second.len() > first.targets[0].bytes_per_second.len());

    let other = sweep(out, &["--resume", "--seed", "7"]);
    assert_eq!(other.code, Some(1));
    let expected = "has results of another seed: `0`, this is `7`\nhint: choose another --out\n";
    assert!(other.stderr.ends_with(expected), "{}", other.stderr);
    let other = sweep(out, &["--resume", "--model", MODEL]);
    assert!(
        other.stderr.contains(" has results of another model: `rust-book-moe "),
        "{}",
        other.stderr
    );
    let other = sweep(out, &["--resume", "--experts-implementation", "fast"]);
    assert!(other.stderr.contains("`fast` is not registered for CPU"), "{}", other.stderr);
    assert_eq!(results(out), second, "what is refused changes nothing");
    let again = sweep(out, &[&more[..], &["--reference"]].concat());
    succeeded(&again);
    assert!(!again.stdout.contains("implementation"), "nothing is left to do: {}", again.stdout);
    assert_eq!(results(out).cells, second.cells);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("NVIDIA A100"));
}

/// A program of a test that fails ends with it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done_and_resume_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let mut long = Killed(
        Command::new(env!("CARGO_BIN_EXE_moexperts"))
            .args(words(out, &["--repetitions", "5000"]))
            .env("CUDA_VISIBLE_DEVICES", "")
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let limit = Duration::from_secs(600);
    let start = Instant::now();
    while Results::read(&out.join("results.json")).is_err() {
        assert!(start.elapsed() < limit, "no turn is complete");
        sleep(Duration::from_millis(10));
    }
    let status = Command::new("kill").args(["-INT", &long.0.id().to_string()]).status().unwrap();
    assert!(status.success());
    let code = loop {
        assert!(start.elapsed() < limit, "it goes on");
        match long.0.try_wait().unwrap() {
            Some(status) => break status.code(),
            None => sleep(Duration::from_millis(10)),
        }
    };
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut long.0.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(code, Some(130), "{stderr}");
    let expected = format!(
        "interrupted: 0 of 6 combinations are complete in {}; --resume goes on\n",
        out.display()
    );
    assert_eq!(stderr, expected);

    let kept = results(out);
    assert!(!kept.cells.is_empty() && kept.cells.iter().all(|cell| cell.runs() > 0));
    assert!(fs::read_to_string(out.join("results.md")).unwrap().contains("- complete: 0 of 6 "));
    assert!(out.join("report.html").exists());
    let enough = kept.cells.iter().map(moexperts_report::Cell::runs).max().unwrap().to_string();
    succeeded(&sweep(out, &["--resume", "--repetitions", &enough]));
    let complete = results(out);
    assert_eq!((complete.complete_cells(), complete.planned), (6, 6));
    let first = &kept.cells[0];
    let now = complete.cells.iter().find(|cell| cell.key == first.key).unwrap();
    assert_eq!(now.generation_ms[..first.runs()], first.generation_ms[..]);
}

#[test]
fn whoever_reads_the_table_may_leave() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Killed(
        Command::new(env!("CARGO_BIN_EXE_moexperts"))
            .args(words(folder.path(), &[]))
            .env("CUDA_VISIBLE_DEVICES", "")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    drop(program.0.stdout.take());
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
    assert_eq!(results(folder.path()).complete_cells(), 6);
    assert!(folder.path().join("report.html").exists());
}

#[test]
fn what_cannot_run_is_listed_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("some");
    // What is named twice is measured once.
    let what = ["--seq", "3,300,3", "--device", "cpu,cuda:7,cpu", "--dtype", "bf16,f32"];
    let run = sweep(&out, &[&what[..], &["--model", MODEL, "--new-tokens", "3,9"]].concat());
    succeeded(&run);
    let results = results(&out);
    assert_eq!(results.cells.len(), 2 * 2 * 2 * 3);
    let dtypes: Vec<&str> = results.targets.iter().map(|target| target.dtype.as_str()).collect();
    assert_eq!(dtypes, ["bf16", "f32"]);
    let skipped = |device: &str| {
        let of = results.skipped.iter().filter(|skipped| skipped.device.as_deref() == Some(device));
        of.map(|skipped| skipped.reason.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((skipped("cuda:7").len(), results.planned), (1, 24));
    assert_eq!(skipped("cpu").len(), 4, "two numbers of new tokens in two dtypes");
    let reason = "300 prompt tokens and 9 new ones do not fit the model's context of 256";
    assert!(skipped("cpu").contains(&reason));
    assert!(
        run.stdout.contains(&format!("\nnot run: cpu f32 sequence 300 new 9: {reason}\n")),
        "{}",
        run.stdout
    );

    let out = folder.path().join("none");
    let run = sweep(&out, &["--seq", "300", "--model", MODEL]);
    assert_eq!((run.code, run.stdout.contains("implementation")), (Some(1), false), "no table");
    let reason = "300 prompt tokens and 3 new ones do not fit the model's context of 256";
    assert_eq!(run.stderr, format!("error: none of the combinations can run: {reason}\n"));
    let run = sweep(&out, &["--experts-implementation", "eager,fast"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("`fast` is not registered for CPU, expected one of "));
}

#[test]
fn a_shape_is_a_model_of_random_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = sweep(folder.path(), &["--shape", "64,32,8,2", "--layers", "2", "--dtype", "f16"]);
    succeeded(&run);
    let results = results(folder.path());
    assert_eq!(results.model, "64,32,8,2, 2 layers, random weights");
    assert_eq!((results.cells.len(), results.targets[0].dtype.as_str()), (6, "f16"));
    for (words, expected) in [
        (&["--batch", "0"][..], "expected a number from 1 to 4096"),
        (&["--batch", "9999999999999999999"], "expected a number from 1 to 4096"),
        (&["--repetitions", "18446744073709551615"], "expected a number from 1 to 1048576"),
        (&["--shape", "olmoe"], "--layers <N>"),
        (&["--layers", "2"], "--shape <SHAPE>"),
        (&["--shape", "olmoe,mixtral", "--layers", "2"], "expected one shape"),
        (&["--new-tokens", "1"], "expected a number, at least 2"),
    ] {
        let run = sweep(folder.path(), words);
        assert_eq!(run.code, Some(2));
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}

#[test]
fn a_report_is_made_again_and_two_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
    succeeded(&sweep(&before, &[]));
    let page = fs::read(before.join("report.html")).unwrap();
    fs::remove_file(before.join("report.html")).unwrap();
    let file = |out: &Path| out.join("results.json").to_str().unwrap().to_owned();
    let report = |words: &[&str]| Program::new(&[&["bench", "report"], words].concat());
    let said = report(&[&file(&before)]).stdout();
    let made = before.join("report.html");
    assert_eq!(said, format!("{}\n", made.display()));
    // The name of the file is another: a sweep names it as it stands in its folder.
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let named = text(fs::read(&made).unwrap()).replace(&file(&before), "results.json");
    assert!(named == text(page), "the same page");

    let refused = report(&[&file(&before), "--out", &file(&before)]).run();
    let expected = format!(
        "error: the page cannot be `{}`, which has the results\nhint: choose another --out\n",
        file(&before)
    );
    assert_eq!((refused.code, refused.stderr), (Some(1), expected));

    let mut changed = results(&before);
    for cell in &mut changed.cells {
        cell.generation_ms = vec![4.0, 4.5, 4.0];
        cell.prefill_ms = vec![1.0; 3];
        cell.decode_ms = vec![3.0; 3];
    }
    fs::write(file(&before), changed.to_json()).unwrap();
    for cell in changed.cells.iter_mut().filter(|cell| cell.key.implementation == "eager") {
        cell.generation_ms = vec![1.0; 3];
    }
    fs::create_dir(&after).unwrap();
    fs::write(file(&after), changed.to_json()).unwrap();
    let said = report(&[&file(&before), &file(&after)]).stdout();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 7, "{said}");
    assert!(lines[0].starts_with("cpu bf16 batch 1 sequence 3 new 3 compile none eager: "));
    assert!(lines[0].ends_with(" ms, -75.0 %, faster"), "{said}");
    assert!(lines[1].ends_with(" ms, +0.0 %, within the noise"), "{said}");
    assert_eq!(lines[6], after.join("comparison.html").display().to_string());
    let page = fs::read_to_string(after.join("comparison.html")).unwrap();
    assert!(page.contains("\"exceeds_noise\":true") && page.contains("\"change\":-0.75"));

    let out = folder.path().join("page.html");
    report(&[&file(&before), "--reference", "--out", out.to_str().unwrap()]).stdout();
    assert!(fs::read_to_string(out).unwrap().contains("NVIDIA A100"));
}

#[test]
fn a_broken_file_of_results_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.json");
    let path = file.to_str().unwrap();
    for (text, expected) in [
        (
            "[{\"shape\":\"olmoe\"}]",
            format!(
                "error: `{path}` holds a list, as `moexperts bench layer --json` writes it, expected \
                 the results of `moexperts bench sweep`\nhint: the file is the results.json in the \
                 folder of --out\n"
            ),
        ),
        (
            "{\"format\":\"moexperts sweep\",",
            format!(
                "error: `{path}` is damaged\ncaused by: EOF while parsing a value at line 1 column \
                 28\nhint: measure again, or use an undamaged copy\n"
            ),
        ),
        (
            "{\"format\":\"moexperts sweep\",\"version\":9}",
            format!(
                "error: `{path}` has version 9 of the results, expected 1\nhint: a newer moexperts \
                 wrote it; use that one\n"
            ),
        ),
    ] {
        fs::write(&file, text).unwrap();
        for words in [&["bench", "report", path][..], &["bench", "report", path, path]] {
            let run = Program::new(words).run();
            assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
            assert_eq!(run.stderr, expected);
        }
        let resumed = sweep(folder.path(), &["--resume"]);
        assert_eq!((resumed.code, resumed.stderr), (Some(1), expected), "nor is it overwritten");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no page is left");
}
