//! What a library without some of its features does, and how it refuses the rest.

use moexperts::{AutoModel, AutoModelForCausalLm, Cpu, DType, LoadOptions};

use crate::{
    checks,
    common::{CASES, Golden, data, greedy, shared},
    pictures,
};

/// No feature is needed to run a model on token ids; a tokenizer and a template among its files do
/// not matter.
#[test]
fn a_model_of_every_family_generates_token_ids() {
    for case in CASES {
        let golden = Golden::open(case);
        let model = shared(case, Some(DType::F32));
        let events = model.generate_tokens(vec![golden.ids("input_ids")], &greedy(20)).unwrap();
        let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
        assert_eq!(tokens, golden.ids("greedy_ids"), "{case}");
        let is_there = data(case).join("tokenizer.json").exists();
        assert_eq!(model.tokenizer().is_some(), is_there && cfg!(feature = "tokenizer"), "{case}");
    }
}

#[test]
fn a_multimodal_model_reads_pictures_as_pixels() {
    let path = data(pictures::CASE);
    let options = LoadOptions::new().dtype(DType::F32);
    let model = AutoModel::from_pretrained(path.to_str().unwrap(), options).unwrap();
    checks::prompts_with_pictures::<Cpu>(&model);
}

#[cfg(not(feature = "tokenizer"))]
#[test]
fn text_needs_the_feature_tokenizer() {
    let expected = "text needs the feature `tokenizer` of moexperts, which is not built in";
    let model = shared("qwen2_moe", None);
    assert_eq!(model.encode("a").unwrap_err().to_string(), expected);
    assert_eq!(model.prompt("a", Vec::new(), true).unwrap_err().to_string(), expected);
    let error = model.generate("a", &greedy(1)).unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.hint().unwrap(), "build moexperts with `--features tokenizer`");
}

#[cfg(not(feature = "chat-template"))]
#[test]
fn a_conversation_needs_the_feature_chat_template() {
    let message = moexperts::Message::text("user", "a");
    assert_eq!(
        shared("qwen2_moe", None)
            .chat_prompt(&[message], Vec::new(), &moexperts::ChatOptions::new())
            .unwrap_err()
            .to_string(),
        "a conversation needs the feature `chat-template` of moexperts, which is not built in"
    );
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_hub_id_needs_the_feature_hub() {
    let error = AutoModel::from_pretrained("owner/name", LoadOptions::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`owner/name`, which is no folder and may be on the hub, needs the feature `hub` of \
         moexperts, which is not built in"
    );
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_needs_the_feature_cuda() {
    let path = data("mixtral");
    let options = LoadOptions::new().device("cuda".parse().unwrap());
    let error = AutoModelForCausalLm::from_pretrained(path.to_str().unwrap(), options);
    assert_eq!(
        error.unwrap_err().to_string(),
        "device `cuda:0` needs the feature `cuda` of moexperts, which is not built in"
    );
}

#[test]
fn a_path_that_is_no_folder_is_not_looked_up_on_the_hub() {
    for path in ["./no/such", "/no/such", "no/such/folder"] {
        for load in [AutoModel::from_pretrained, AutoModelForCausalLm::from_pretrained] {
            let error = load(path, LoadOptions::new()).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot read `{path}`"));
        }
    }
}
