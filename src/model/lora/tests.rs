use super::*;

#[test]
fn a_path_may_have_a_weight_behind_it() {
    let read = |text: &str| text.parse::<Spec>().map(|spec| (spec.path.display().to_string(), spec.weight));
    assert_eq!(read("a/b.safetensors").ok(), Some(("a/b.safetensors".into(), 1.0)));
    assert_eq!(read("a.safetensors=0.8").ok(), Some(("a.safetensors".into(), 0.8)));
    assert_eq!(read("a=b.safetensors=-1").ok(), Some(("a=b.safetensors".into(), -1.0)));
    for wrong in ["a=", "a=x", "a=nan", "a=inf", "=1", ""] {
        let error = read(wrong).expect_err(wrong);
        assert_eq!((error.kind(), error.option_name()), (crate::ErrorKind::Usage, Some("lora")), "{wrong}");
    }
    // A file whose name has the sign is itself.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x=y");
    std::fs::write(&path, "").unwrap();
    let text = path.display().to_string();
    assert_eq!(read(&text).ok(), Some((text.clone(), 1.0)));
    assert_eq!(read(&format!("{text}=2")).ok(), Some((text, 2.0)));
    let other = format!("{}/./x=y=3", dir.path().display());
    assert!(Spec::parse_all(&[path.display().to_string(), other]).is_err(), "one file by two paths");
    let twice = Spec::parse_all(&["a".into(), "a=0.5".into()]).expect_err("twice");
    assert!(twice.message().contains("given twice"), "{twice}");
}

#[test]
fn the_header_says_alphas() {
    let text = r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}, "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": true, "text_encoder_2.alpha_pattern": {"q.*": 1}}"#;
    let settings = Settings::read(Some(text)).expect("settings");
    let scale = |component, tensor| settings.scale(component, tensor, 4).map_err(|e| e.to_string());
    assert_eq!(scale("unet", "mid_block.attn1.to_q.weight"), Ok(Some(0.5)));
    assert_eq!(scale("unet", "mid_block.attn1.to_k.weight"), Ok(Some(2.0)));
    assert_eq!(scale("unet", "mid_block.xattn1.to_q.weight"), Ok(Some(2.0)), "whole parts of names");
    assert_eq!(scale("text_encoder", "encoder.layers.0.mlp.fc1.weight"), Ok(Some(1.5)));
    let whole = Settings::read(Some(r#"{"unet.alpha_pattern": {"^mid.to_q": 2}}"#)).expect("settings");
    let of = |tensor| whole.scale("unet", tensor, 4).ok().flatten();
    assert_eq!((of("mid.to_q.weight"), of("a.mid.to_q.weight")), (Some(0.5), None), "a whole name");
    let patterns = scale("text_encoder_2", "q.weight").expect_err("a pattern");
    assert!(patterns.contains("text_encoder_2.alpha_pattern"), "{patterns}");
    let none = Settings::read(None).expect("none");
    assert_eq!(none.scale("unet", "a.weight", 4).ok(), Some(None));
    for wrong in ["[1]", "{", r#"{"unet.lora_alpha": "x"}"#, r#"{"unet.alpha_pattern": 1}"#] {
        let found = Settings::read(Some(wrong)).and_then(|s| s.scale("unet", "a.weight", 1));
        assert!(found.expect_err(wrong).message().contains(METADATA), "{wrong}");
    }
}
