//! `cargo xtask bench-peers`: our program and the programs users would pick instead, in turns.
//!
//! The peers are the scripts of `bench/peers`, which write rows with the same keys as `moexperts
//! bench`. [`args`] is the command line, [`programs`] runs a program, [`samples`] reads its rows,
//! [`record`] writes tables of them with [`table`], and [`targets`] says what they are worth.

#![forbid(unsafe_code)]

mod args;
mod pack;
mod peer;
mod programs;
mod record;
mod samples;
mod table;
mod targets;
mod tools;

use std::{
    env,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Parser as _;
use moexperts_bench::output::note;

use crate::{
    args::{Args, Subject, Task},
    peer::{OURS, Peer},
    programs::Program,
    record::Record,
    samples::Absence,
    tools::{Problem, Result, announce, print},
};

fn main() -> ExitCode {
    match work(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            note(format_args!("error: {problem}"));
            ExitCode::FAILURE
        }
    }
}

fn work(args: &Args) -> Result<()> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    // On a machine it was only copied to it is started in the root folder.
    if root.is_dir() {
        env::set_current_dir(root)?;
    }
    match &args.task {
        Some(Task::Targets { records }) => {
            print(&targets::of_files(records)?);
            Ok(())
        }
        None => measure(args),
    }
}

fn measure(args: &Args) -> Result<()> {
    let deadline = args.budget.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let threads = args.threads.map_or_else(thread::available_parallelism, Ok)?;
    let cells = args.cells()?;
    let mut record = Record::new(args, threads)?;
    let programs = present(args, &mut record)?;
    let (rounds, all) = (args.rounds(), args.rounds().get() * cells.len());
    for round in 0..rounds.get() {
        record.begin(round, rounds);
        for (index, cell) in cells.iter().enumerate() {
            // A share of the time for each cell that is left.
            let left = all - round * cells.len() - index;
            let share = deadline.map(|deadline| {
                let now = Instant::now();
                now + deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(1)
            });
            for turn in 0..programs.len() {
                // Each round begins with another program.
                let program = &programs[(round + turn) % programs.len()];
                if record.is_absent(program, cell) {
                    continue;
                }
                announce(&format!("round {}: {}: {}", round + 1, cell.title, program.name));
                let (rows, problem) = program.run(cell, threads, share);
                record.add_rows(round, program, cell, rows)?;
                if let Some(reason) = problem {
                    record.add_absence(Absence {
                        column: program.name.to_owned(),
                        table: Some(cell.title.clone()),
                        at: None,
                        reason,
                    });
                }
                // Every time, so that an interrupted run keeps what it has.
                record.write()?;
            }
        }
    }
    announce(&format!("written: {}", record.path().display()));
    if record.lacks(OURS) {
        return Err(Problem::new(format!("`{OURS}` did not run everywhere; the record says why")));
    }
    Ok(())
}

/// The programs that can run, ours first; the record gets their versions, and why others cannot.
fn present(args: &Args, record: &mut Record) -> Result<Vec<Program>> {
    let mut programs = vec![Program::ours(args)?];
    let peers = match args.subject {
        // On a GPU one process measures all of transformers.
        Subject::Layers | Subject::Models if args.on_gpu() => [Peer::Transformers].as_slice(),
        Subject::Layers => &Peer::LAYERS,
        Subject::Models => &Peer::MODELS,
        Subject::Vision => &Peer::VISION,
    };
    for peer in peers {
        let program = Program::of_peer(*peer, args).and_then(|program| {
            record.add_versions(&program, &program.versions()?);
            Ok(program)
        });
        match program {
            Ok(program) => programs.push(program),
            Err(reason) => record.add_absence(Absence {
                column: peer.name().to_owned(),
                table: None,
                at: None,
                reason,
            }),
        }
    }
    Ok(programs)
}
