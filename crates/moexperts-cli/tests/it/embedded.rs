//! The model in the program needs no file, no network and no particular folder.

use std::fs;

use crate::program::Program;

#[test]
fn generates_text_in_an_empty_folder_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let text = Program::new(&["generate", "The borrow checker", "--temperature", "0"])
        .folder(folder.path())
        .env("HF_HUB_OFFLINE", "1")
        .env("HOME", folder.path().to_str().unwrap())
        .stdout();
    assert!(!text.trim().is_empty());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_command_has_help() {
    for command in ["generate", "chat", "logits", "tokenize", "inspect"] {
        let help = Program::new(&[command, "--help"]).stdout();
        assert!(help.contains("Examples:\n  moexperts "), "{help}");
    }
    let version = Program::new(&["--version"]).stdout();
    assert_eq!(version, concat!("moexperts ", env!("CARGO_PKG_VERSION"), "\n"));
}
