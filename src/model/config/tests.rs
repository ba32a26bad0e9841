use serde_json::json;

use super::*;
use crate::ErrorKind;

fn unet(value: Value) -> Result<UNetConfig> {
    UNetConfig::parse("unet/config.json", value.to_string().as_bytes())
}

fn vae(value: Value) -> Result<AutoencoderConfig> {
    AutoencoderConfig::parse("vae/config.json", value.to_string().as_bytes())
}

fn text(value: Value) -> Result<ClipTextConfig> {
    ClipTextConfig::parse("text_encoder/config.json", value.to_string().as_bytes())
}

fn clip(value: Value) -> Result<ClipConfig> {
    ClipConfig::parse("config.json", value.to_string().as_bytes())
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let error = result.expect_err("must fail");
    assert_eq!(error.kind(), ErrorKind::Model);
    let text = format!("{error:?}");
    for word in words.iter().chain(&["config.json: ", "fix: "]) {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// `base` with other values for some keys.
fn with(mut base: Value, changes: Value) -> Value {
    let changes = changes.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(changes);
    base
}

fn sd1() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
        "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
        "cross_attention_dim": 768, "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D", "DownBlock2D"], "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0,
        "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5,
        "norm_num_groups": 32, "out_channels": 4, "sample_size": 64, "up_block_types": ["UpBlock2D",
        "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    })
}

fn xl() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.19.0.dev0", "act_fn": "silu",
        "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "class_embed_type": null,
        "class_embeddings_concat": false, "conv_in_kernel": 3, "cross_attention_dim": 2048,
        "cross_attention_norm": null, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D"], "dual_cross_attention": false, "encoder_hid_dim": null,
        "mid_block_only_cross_attention": null, "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": null, "only_cross_attention": false, "projection_class_embeddings_input_dim": 2816,
        "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": false, "resnet_time_scale_shift": "default",
        "sample_size": 128, "time_cond_proj_dim": null, "time_embedding_type": "positional",
        "transformer_layers_per_block": [1, 2, 10], "up_block_types": ["CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": null, "use_linear_projection": true
    })
}

#[test]
fn stable_diffusion_1_is_read() {
    let config = unet(sd1()).unwrap();
    let attention = |depth: usize| Some(Attention { heads: 8, depth: vec![1; depth], context: 768 });
    assert_eq!(config.down[0], Level { channels: 320, layers: 2, attention: attention(2), resample: true });
    assert_eq!(config.down[3], Level { channels: 1280, layers: 2, attention: None, resample: false });
    assert_eq!(config.up[0], Level { channels: 1280, layers: 3, attention: None, resample: true });
    assert_eq!(config.up[3], Level { channels: 320, layers: 3, attention: attention(3), resample: false });
    assert_eq!(config.mid, Mid::CrossAttention(attention(1).unwrap()));
    assert_eq!((config.base_channels(), config.time_embed_dim, config.context_dim()), (320, 1280, Some(768)));
    assert!(config.text_time.is_none() && config.unknown_keys.is_empty());
}

#[test]
fn an_absent_key_has_the_default_of_diffusers() {
    // All of the class's defaults but `cross_attention_dim` are those of Stable Diffusion 1.
    let config = unet(json!({})).unwrap();
    let stated = unet(with(sd1(), json!({"cross_attention_dim": 1280}))).unwrap();
    assert_eq!(config, UNetConfig { sample_size: None, old_square_size: false, ..stated });
}

#[test]
fn stable_diffusion_2_has_heads_per_level() {
    let heads = json!({"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true,
        "cross_attention_dim": 1024, "upcast_attention": true});
    let config = unet(with(sd1(), heads)).unwrap();
    let heads_of = |levels: &[Level]| {
        levels.iter().filter_map(|l| Some(l.attention.as_ref()?.heads)).collect::<Vec<_>>()
    };
    assert_eq!(heads_of(&config.down), [5, 10, 20]);
    assert_eq!(heads_of(&config.up), [20, 10, 5]);
    assert!(matches!(&config.mid, Mid::CrossAttention(a) if a.heads == 20));
    assert_eq!(config.unknown_keys, [""; 0]);
}

#[test]
fn stable_diffusion_xl_has_depths_and_added_conditions() {
    let config = unet(xl()).unwrap();
    let depth = |levels: &[Level]| -> Vec<Option<Vec<usize>>> {
        levels.iter().map(|l| l.attention.as_ref().map(|a| a.depth.clone())).collect()
    };
    assert_eq!(depth(&config.down), [None, Some(vec![2, 2]), Some(vec![10, 10])]);
    assert_eq!(depth(&config.up), [Some(vec![10; 3]), Some(vec![2; 3]), None]);
    assert!(matches!(&config.mid, Mid::CrossAttention(a) if a.depth == [10] && a.context == 2048));
    assert_eq!(config.text_time, Some(TextTime { time_dim: 256, input_dim: 2816 }));
    assert_eq!(config.unknown_keys, [""; 0]);
}

#[test]
fn depths_may_be_given_layer_by_layer() {
    let nested = json!({"transformer_layers_per_block": [1, [2, 2], [4, 3]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 0], 1]});
    let config = unet(with(xl(), nested.clone())).unwrap();
    assert_eq!(config.down[2].attention.as_ref().unwrap().depth, [4, 3]);
    assert_eq!(config.up[1].attention.as_ref().unwrap().depth, [2, 1, 0]);
    assert!(matches!(&config.mid, Mid::CrossAttention(a) if a.depth == [4]));
    fails(
        unet(with(with(xl(), nested), json!({"reverse_transformer_layers_per_block": null}))),
        &["reverse_transformer_layers_per_block is missing"],
    );
    fails(
        unet(with(xl(), json!({"reverse_transformer_layers_per_block": [[4], 1, 1]}))),
        &["reverse_transformer_layers_per_block has 1 entries", "3 layers"],
    );
}

#[test]
fn the_middle_may_be_less() {
    assert_eq!(unet(with(sd1(), json!({"mid_block_type": null}))).unwrap().mid, Mid::None);
    assert_eq!(unet(with(sd1(), json!({"mid_block_type": "UNetMidBlock2D"}))).unwrap().mid, Mid::Residual);
}

#[test]
fn what_would_change_the_result_of_a_unet_is_refused_by_name() {
    for (changes, words) in [
        (
            json!({"down_block_types": ["SimpleCrossAttnDownBlock2D"]}),
            ["SimpleCross", "CrossAttnDownBlock2D, Down"],
        ),
        (
            json!({"up_block_types": ["AttnUpBlock2D"]}),
            ["AttnUpBlock2D", "supported: CrossAttnUpBlock2D, UpBlock2D"],
        ),
        (
            json!({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}),
            ["mid_block_type", "UNetMidBlock2DCrossAttn"],
        ),
        (json!({"act_fn": "mish"}), ["act_fn is \"mish\"", "\"silu\", \"swish\""]),
        (json!({"class_embed_type": "timestep"}), ["class_embed_type is \"timestep\"", "supported: null"]),
        (json!({"num_class_embeds": 1000}), ["num_class_embeds is 1000", "null"]),
        (json!({"dual_cross_attention": true}), ["dual_cross_attention is true", "supported: false"]),
        (
            json!({"only_cross_attention": [true, true, true, false]}),
            ["only_cross_attention", "supported: false"],
        ),
        (json!({"resnet_time_scale_shift": "scale_shift"}), ["resnet_time_scale_shift", "\"default\""]),
        (json!({"time_embedding_type": "fourier"}), ["time_embedding_type", "\"positional\""]),
        (json!({"addition_embed_type": "image"}), ["addition_embed_type is \"image\"", "\"text_time\""]),
        (json!({"addition_embed_type": "text_time"}), ["needs addition_time_embed_dim", "fix"]),
        (json!({"attention_type": "gated"}), ["attention_type", "\"default\""]),
        (json!({"encoder_hid_dim": 1024}), ["encoder_hid_dim is 1024", "null"]),
        (json!({"cross_attention_norm": "layer_norm"}), ["cross_attention_norm", "null"]),
        (json!({"time_embedding_act_fn": "gelu"}), ["time_embedding_act_fn", "null"]),
        (json!({"timestep_post_act": "silu"}), ["timestep_post_act", "null"]),
        (json!({"downsample_padding": 0}), ["downsample_padding is 0", "supported: 1"]),
        (json!({"mid_block_scale_factor": 1.41}), ["mid_block_scale_factor is 1.41", "supported: 1"]),
        (json!({"resnet_skip_time_act": true}), ["resnet_skip_time_act", "false"]),
        (json!({"class_embeddings_concat": true}), ["class_embeddings_concat", "false"]),
        (json!({"norm_num_groups": null}), ["norm_num_groups is null", "an integer"]),
        (json!({"cross_attention_dim": [768, 768, 1024, 768]}), ["cross_attention_dim", "one width"]),
        (json!({"_class_name": "UNet2DModel"}), ["_class_name is \"UNet2DModel\"", "UNet2DConditionModel"]),
    ] {
        fails(unet(with(sd1(), changes)), &words);
    }
}

#[test]
fn values_of_the_wrong_type_and_contradictions_name_file_and_key() {
    for (changes, words) in [
        (json!({"in_channels": "4"}), ["unet/config.json: in_channels is \"4\"", "an integer from 1"]),
        (json!({"in_channels": 0}), ["in_channels is 0", "from 1"]),
        (json!({"in_channels": -4}), ["in_channels is -4", "from 1"]),
        (json!({"in_channels": 1e300}), ["in_channels is 1e", "from 1"]),
        (json!({"out_channels": 4611686018427387904_u64}), ["out_channels", "from 1"]),
        (json!({"norm_eps": "small"}), ["norm_eps is \"small\"", "a number"]),
        (json!({"norm_eps": 0}), ["norm_eps is 0", "above 0"]),
        (json!({"flip_sin_to_cos": 1}), ["flip_sin_to_cos is 1", "true or false"]),
        (json!({"act_fn": 3}), ["act_fn is 3", "silu"]),
        (json!({"block_out_channels": 320}), ["block_out_channels is 320", "a list"]),
        (json!({"block_out_channels": []}), ["block_out_channels is []", "a list"]),
        (
            json!({"block_out_channels": [320, 640]}),
            ["down_block_types has 4 entries", "block_out_channels has 2"],
        ),
        (json!({"block_out_channels": [321, 640, 1280, 1280]}), ["321", "norm_num_groups 32"]),
        (json!({"attention_head_dim": 7}), ["7 heads", "attention_head_dim"]),
        (json!({"attention_head_dim": [8, 8]}), ["attention_head_dim is [8,8]", "a list of 4"]),
        (json!({"layers_per_block": [2, 2, 2]}), ["layers_per_block", "a list of 4"]),
        (
            json!({"transformer_layers_per_block": [1, "2", 1, 1]}),
            ["transformer_layers_per_block", "integers"],
        ),
        (json!({"sample_size": [1, 2, 3]}), ["sample_size is [1,2,3]", "two of them"]),
        (json!({"conv_in_kernel": 4}), ["conv_in_kernel is 4", "an odd integer"]),
        (json!({"freq_shift": 160}), ["freq_shift 160", "cannot be computed"]),
        (json!({"down_block_types": "DownBlock2D"}), ["down_block_types", "a list of strings"]),
    ] {
        fails(unet(with(sd1(), changes)), &words);
    }
    fails(UNetConfig::parse("unet/config.json", b"{\"act_fn\": "), &["not valid JSON", "line 1"]);
    fails(UNetConfig::parse("unet/config.json", b"[]"), &["not a JSON object"]);
    fails(UNetConfig::parse("unet/config.json", b"\xff"), &["not valid JSON"]);
}

#[test]
fn autoencoders_are_read() {
    let sd1 = json!({
        "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
    });
    let config = vae(sd1.clone()).unwrap();
    assert_eq!(config.scaling_factor, 0.18215);
    assert_eq!((config.scale(), config.layers_per_block, config.shift_factor), (8, 2, 0.0));
    assert!(config.force_upcast && config.quant_conv && config.post_quant_conv && config.mid_attention);

    let other = json!({"scaling_factor": 0.13025, "force_upcast": false, "use_quant_conv": false, "shift_factor": 0.1,
        "use_post_quant_conv": false, "mid_block_add_attention": false, "latents_mean": null});
    let config = vae(with(sd1.clone(), other)).unwrap();
    assert_eq!((config.scaling_factor, config.shift_factor), (0.13025, 0.1));
    assert!(!config.force_upcast && !config.quant_conv && !config.post_quant_conv && !config.mid_attention);

    let statistics =
        json!({"latents_mean": [0, 1, 2, 3], "latents_std": [1, 2, 3, 4], "tiles": 3, "x": null});
    let config = vae(with(sd1.clone(), statistics)).unwrap();
    assert_eq!(config.statistics, Some((vec![0.0, 1.0, 2.0, 3.0], vec![1.0, 2.0, 3.0, 4.0])));
    assert_eq!(config.unknown_keys, ["tiles: 3"]);
    assert_eq!(vae(with(sd1.clone(), json!({"latents_mean": [0, 1, 2, 3]}))).unwrap().statistics, None);

    assert_eq!(vae(json!({})).unwrap().block_out_channels, [64]);
    for (changes, words) in [
        (json!({"_class_name": "AutoencoderTiny"}), ["AutoencoderTiny", "\"AutoencoderKL\""]),
        (json!({"latents_mean": [0.0, 0.0]}), ["latents_mean is [0.0,0.0]", "each of 4 latent channels"]),
        (json!({"latents_std": [1, 1, 0, 1]}), ["latents_std is [1,1,0,1]", "each of 4 latent channels"]),
        (
            json!({"up_block_types": ["AttnUpDecoderBlock2D"]}),
            ["AttnUpDecoderBlock2D", "supported: UpDecoderBlock2D"],
        ),
        (json!({"down_block_types": ["DownEncoderBlock2D"]}), ["down_block_types has 1 entries", "4"]),
        (json!({"scaling_factor": 0}), ["scaling_factor is 0", "above 0"]),
        (json!({"norm_num_groups": 48}), ["128", "norm_num_groups 48"]),
        (json!({"force_upcast": "yes"}), ["force_upcast is \"yes\"", "true or false"]),
    ] {
        fails(vae(with(sd1.clone(), changes)), &words);
    }
}

#[test]
fn tiny_autoencoders_are_read() {
    let decoder = |value: Value| DecoderConfig::parse("vae/config.json", value.to_string().as_bytes());
    let taesd = json!({
        "_class_name": "AutoencoderTiny", "act_fn": "relu", "decoder_block_out_channels": [64, 64, 64, 64],
        "encoder_block_out_channels": [64, 64, 64, 64], "force_upcast": false, "in_channels": 3, "latent_channels": 4,
        "latent_magnitude": 3, "latent_shift": 0.5, "num_decoder_blocks": [3, 3, 3, 1], "num_encoder_blocks": [1, 3, 3,
        3], "out_channels": 3, "scaling_factor": 1.0, "upsampling_scaling_factor": 2
    });
    let DecoderConfig::Tiny(config) = decoder(taesd.clone()).unwrap() else { panic!("it is tiny") };
    assert_eq!((config.channels, &config.blocks[..], config.scale()), (64, &[3, 3, 3, 1][..], 8));
    assert_eq!((config.latent_channels, config.out_channels), (4, 3));
    assert_eq!((config.scaling_factor, config.shift_factor, config.unknown_keys.len()), (1.0, 0.0, 0));
    assert_eq!(decoder(json!({"_class_name": "AutoencoderTiny"})).unwrap(), DecoderConfig::Tiny(config));
    assert!(matches!(decoder(json!({"block_out_channels": [32]})).unwrap(), DecoderConfig::Kl(_)));

    let other = json!({"num_decoder_blocks": [0, 2], "decoder_block_out_channels": [8, 8], "scaling_factor": 0.5,
        "shift_factor": 0.25, "tiles": 3});
    let DecoderConfig::Tiny(config) = decoder(with(taesd.clone(), other)).unwrap() else {
        panic!("it is tiny")
    };
    assert_eq!((&config.blocks[..], config.scale(), config.scaling_factor), (&[0, 2][..], 2, 0.5));
    assert_eq!((config.shift_factor, &config.unknown_keys[..]), (0.25, &["tiles: 3".to_string()][..]));

    for (changes, words) in [
        (
            json!({"_class_name": "AutoencoderDC"}),
            ["AutoencoderDC", "\"AutoencoderKL\", \"AutoencoderTiny\""],
        ),
        (json!({"_class_name": 3}), ["_class_name is 3", "AutoencoderTiny"]),
        (json!({"act_fn": "gelu"}), ["act_fn is \"gelu\"", "\"relu\""]),
        (json!({"upsample_fn": "bilinear"}), ["upsample_fn is \"bilinear\"", "\"nearest\""]),
        (json!({"upsampling_scaling_factor": 4}), ["upsampling_scaling_factor is 4", "supported: 2"]),
        (json!({"num_decoder_blocks": [3, 1]}), ["decoder_block_out_channels has 4", "num_decoder_blocks 2"]),
        (json!({"num_decoder_blocks": 3}), ["num_decoder_blocks is 3", "a list of integers"]),
        (json!({"num_decoder_blocks": []}), ["num_decoder_blocks is []", "a list of integers"]),
        (json!({"num_decoder_blocks": [1 << 20, 1, 1, 1]}), ["num_decoder_blocks", "0 to 1024"]),
        (json!({"decoder_block_out_channels": [64, 64, 32, 64]}), ["has 64 and 32", "no layer leads"]),
        (json!({"latent_channels": 0}), ["latent_channels is 0", "from 1"]),
        (json!({"scaling_factor": 0}), ["scaling_factor is 0", "above 0"]),
        (
            json!({"decoder_block_out_channels": vec![8; 9], "num_decoder_blocks": vec![1; 9]}),
            ["has 9 entries", "at most 8"],
        ),
    ] {
        fails(decoder(with(taesd.clone(), changes)), &words);
    }
}

#[test]
fn text_models_are_read() {
    let sd1 = json!({
        "architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "quick_gelu",
        "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
        "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
        "projection_dim": 768, "vocab_size": 49408
    });
    let config = text(sd1.clone()).unwrap();
    assert_eq!((config.hidden_size, config.heads, config.layers), (768, 12, 12));
    assert_eq!((config.pooling, config.activation), (Pooling::LargestToken, Activation::QuickGelu));
    let xl2 = text(with(sd1.clone(), json!({"hidden_act": "gelu", "eos_token_id": 49407}))).unwrap();
    assert_eq!((xl2.pooling, xl2.activation), (Pooling::First(49407), Activation::Gelu));
    let masked =
        json!({"use_attention_mask": true, "torch_dtype": "float32", "masks": [1], "pruned_heads": {}});
    let masked = text(with(sd1.clone(), masked)).unwrap();
    assert!(masked.use_attention_mask);
    assert_eq!(masked.unknown_keys, ["masks: [1]"]);
    let defaults = text(json!({})).unwrap();
    assert_eq!((defaults.hidden_size, defaults.heads, defaults.pooling), (512, 8, Pooling::First(49407)));
    for (changes, words) in [
        (json!({"hidden_act": "gelu_new"}), ["hidden_act is \"gelu_new\"", "\"quick_gelu\", \"gelu\""]),
        (json!({"num_attention_heads": 7}), ["hidden_size 768", "num_attention_heads 7"]),
        (json!({"model_type": "t5"}), ["model_type is \"t5\"", "clip_text_model"]),
        (json!({"pruned_heads": {"0": [1]}}), ["pruned_heads is {\"0\":[1]}", "none"]),
        (json!({"quantization_config": {"bits": 4}}), ["quantization_config", "null"]),
        (json!({"eos_token_id": [1, 3]}), ["eos_token_id is [1,3]", "one token id"]),
        (json!({"vocab_size": null, "hidden_size": []}), ["hidden_size is []", "an integer"]),
    ] {
        fails(text(with(sd1.clone(), changes)), &words);
    }
}

#[test]
fn both_towers_are_read_and_the_old_keys_decide() {
    let file = json!({
        "model_type": "clip", "projection_dim": 768,
        "text_config": {"hidden_size": 640, "num_attention_heads": 10, "eos_token_id": 2},
        "text_config_dict": null,
        "vision_config": {"hidden_size": 640, "num_attention_heads": 10},
        "vision_config_dict": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "patch_size": 14, "image_size": [224, 224]}
    });
    let config = clip(file.clone()).unwrap();
    assert_eq!((config.text.hidden_size, config.text.pooling), (640, Pooling::LargestToken));
    assert_eq!((config.vision.hidden_size, config.vision.layers, config.vision.patch_size), (1024, 24, 14));
    assert_eq!(
        (config.projection_dim, config.vision.projection_dim, config.text.projection_dim),
        (768, 768, 768)
    );
    assert_eq!(config.vision.positions(), 257);
    let alone = ClipVisionConfig::parse("config.json", file.to_string().as_bytes()).unwrap();
    assert_eq!(alone.hidden_size, 1024);

    let defaults = clip(json!({"model_type": "clip"})).unwrap();
    assert_eq!((defaults.vision.hidden_size, defaults.vision.positions()), (768, 50));
    fails(clip(json!({"model_type": "clip_text_model"})), &["one tower, not both"]);
    fails(clip(with(file.clone(), json!({"text_config": 3}))), &["text_config is 3", "an object"]);
    fails(
        clip(with(file.clone(), json!({"vision_config_dict": {"patch_size": 15}}))),
        &["vision_config_dict.image_size 224 is no multiple of patch_size 15"],
    );
    fails(
        clip(with(file, json!({"vision_config_dict": {"image_size": [224, 112]}}))),
        &["vision_config_dict.image_size is [224,112]", "squares"],
    );
}

/// Numbers that decide how much is allocated, how long a loop is or what is divided by, before any weight is
/// looked at: all at the edge of what makes a network.
#[test]
fn numbers_that_make_no_network_are_refused_by_name() {
    let many = vec![32; 9];
    for (changes, words) in [
        (json!({"layers_per_block": 1025}), ["layers_per_block is 1025", "1 to 1024"]),
        (json!({"layers_per_block": [1, 1, 1, 1 << 30]}), ["layers_per_block", "a list of 4"]),
        (json!({"layers_per_block": 0}), ["layers_per_block is 0", "1 to 1024"]),
        (json!({"transformer_layers_per_block": 1 << 30}), ["transformer_layers_per_block", "up to 1024"]),
        (
            json!({"transformer_layers_per_block": [[1 << 30], 1, 1, 1]}),
            ["transformer_layers_per_block", "1024"],
        ),
        (json!({"block_out_channels": many}), ["block_out_channels has 9 entries", "at most 8"]),
        (json!({"block_out_channels": [0, 32, 32, 32]}), ["block_out_channels is [0,", "integers from 1"]),
        (json!({"norm_num_groups": 0}), ["norm_num_groups is 0", "from 1"]),
        (json!({"norm_num_groups": 1_u64 << 40}), ["norm_num_groups", "from 1"]),
        (json!({"attention_head_dim": 0}), ["attention_head_dim is 0", "from 1"]),
        (json!({"attention_head_dim": [8, 0, 8, 8]}), ["attention_head_dim is [8,0,", "from 1"]),
        (json!({"cross_attention_dim": 0}), ["cross_attention_dim is 0", "from 1"]),
        (json!({"sample_size": 0}), ["sample_size is 0", "from 1"]),
        (json!({"sample_size": [64, 1_u64 << 40]}), ["sample_size is [64,", "from 1"]),
        (json!({"time_embedding_dim": 0}), ["time_embedding_dim is 0", "from 1"]),
        (json!({"time_cond_proj_dim": 0}), ["time_cond_proj_dim is 0", "from 1"]),
        (json!({"conv_in_kernel": 0}), ["conv_in_kernel is 0", "from 1"]),
        (json!({"norm_eps": 1e-300}), ["norm_eps is 1e-300", "above 0"]),
        (json!({"norm_eps": 1e300}), ["norm_eps is 1e", "32 bits"]),
        (json!({"freq_shift": -1}), ["freq_shift -1", "cannot be computed"]),
        (json!({"freq_shift": 1e9}), ["freq_shift 1000000000", "cannot be computed"]),
    ] {
        fails(unet(with(sd1(), changes)), &words);
    }
    // Two features are one sine and one cosine, and a shift of one leaves nothing to divide by.
    let narrow = json!({"addition_time_embed_dim": 2, "freq_shift": 1});
    fails(unet(with(xl(), narrow)), &["2 features with freq_shift 1", "cannot be computed"]);
    fails(unet(with(xl(), json!({"addition_time_embed_dim": 0}))), &["addition_time_embed_dim is 0"]);
    fails(unet(with(xl(), json!({"addition_time_embed_dim": 3}))), &["addition_time_embed_dim 3"]);

    for (changes, words) in [
        (json!({"layers_per_block": 1 << 20}), ["layers_per_block", "1 to 1024"]),
        (json!({"latent_channels": 0}), ["latent_channels is 0", "from 1"]),
        (json!({"norm_num_groups": 0}), ["norm_num_groups is 0", "from 1"]),
        (json!({"block_out_channels": vec![32; 70]}), ["block_out_channels has 70 entries", "at most 8"]),
        (json!({"scaling_factor": 1e-40}), ["scaling_factor is 1e-40", "above 0"]),
        (json!({"scaling_factor": -0.18}), ["scaling_factor is -0.18", "above 0"]),
        (json!({"shift_factor": 1e39}), ["shift_factor is 1e", "32 bits"]),
    ] {
        fails(vae(changes), &words);
    }
    for (changes, words) in [
        (json!({"num_hidden_layers": 1 << 20}), ["num_hidden_layers", "1 to 1024"]),
        (json!({"num_attention_heads": 0}), ["num_attention_heads is 0", "from 1"]),
        (json!({"vocab_size": 0}), ["vocab_size is 0", "from 1"]),
        (json!({"max_position_embeddings": 0}), ["max_position_embeddings is 0", "from 1"]),
        (json!({"layer_norm_eps": 0}), ["layer_norm_eps is 0", "above 0"]),
    ] {
        fails(text(changes), &words);
    }
    for (changes, words) in [
        (json!({"patch_size": 0}), ["patch_size is 0", "from 1"]),
        (json!({"patch_size": 448}), ["image_size 224", "patch_size 448"]),
        (json!({"image_size": 0}), ["image_size is 0", "from 1"]),
        (json!({"num_channels": 1}), ["num_channels is 1", "supported: 3"]),
    ] {
        fails(clip(json!({"model_type": "clip", "vision_config": changes})), &words);
    }
}
