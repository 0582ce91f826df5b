//! A session and what compiling made belong to one model.

use moexperts::{AnyDevice, AutoModel, Cpu, CpuOptions, LoadOptions, Session};

use crate::common::{data, greedy, load, shared};

#[test]
fn a_session_goes_on_with_the_model_that_made_it_and_no_other() {
    let model = shared("mixtral", None);
    let other = load("mixtral", LoadOptions::new());
    let session = |prompts: Vec<Vec<u32>>| -> Session {
        let mut generation = model.generate_tokens(prompts, &greedy(3)).unwrap();
        assert!(generation.by_ref().all(|event| event.is_ok()));
        generation.into_session()
    };
    let refused = other.continue_tokens(session(vec![vec![1, 2, 3]]), vec![vec![1, 2]], &greedy(1));
    let error = refused.unwrap_err().to_string();
    assert!(
        error.starts_with("option `session` is made by another model, expected a session of `"),
        "{error}"
    );
    let session = session(vec![vec![1, 2, 3], vec![4]]);
    assert_eq!(session.sequences(), 2);
    let error = model.continue_tokens(session, vec![vec![1, 2]], &greedy(1)).unwrap_err();
    assert_eq!(error.to_string(), "option `prompts` is 1, expected 2");
    assert_eq!(other.session(3).unwrap().sequences(), 3);
}

#[test]
fn a_model_says_where_it_runs() {
    let cpu = Cpu::new(CpuOptions { threads: 2.try_into().ok(), isa: None }).unwrap();
    let path = data("mixtral");
    let device = AnyDevice::from(cpu);
    let described = device.describe();
    let model =
        AutoModel::from_pretrained_on(device, path.to_str().unwrap(), LoadOptions::new()).unwrap();
    assert_eq!(model.device().unwrap().describe(), described);
    assert_eq!(model.device_name(), "CPU");
    assert_eq!(model.on::<Cpu>().unwrap().device().thread_count(), 2);
    assert!(model.vision().is_none() && model.vision_dtype().is_none());
}
