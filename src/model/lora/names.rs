//! What the names of tensors in a LoRA file mean: a layer of a component, and what the tensor is to it. The
//! names of a layer are compared with `_` in the place of `.`, as kohya's trainer writes them.

use crate::error::{Error, Result};
use crate::model::checkpoint::cut;

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `(rank, in, ..)`.
    Down,
    /// `(out, rank, ..)`.
    Up,
    /// One number: the update counts `alpha / rank`.
    Alpha,
    /// The length of each output's weights: DoRA.
    Magnitude,
}

/// A name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Folder of the component that it is for.
    pub component: &'static str,
    /// The layer, with `_` between the parts of its name.
    pub layer: String,
    /// What the tensor is.
    pub role: Role,
}

const ROLES: [(&str, Role); 15] = [
    // kohya.
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".dora_scale", Role::Magnitude),
    // diffusers, from the first attention processors (`to_q_lora.down`) on.
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    // PEFT.
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_magnitude_vector", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    // An alpha beside `to_q_lora`.
    ("_lora.alpha", Role::Alpha),
];

const COMPONENTS: [(&str, &str); 7] = [
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
];

/// Files of the first attention processors name no component.
const OF_THE_UNET: [&str; 3] = ["down_blocks.", "mid_block.", "up_blocks."];

/// What a name with a full stop behind it contains that is of another method than LoRA, or of a form of it
/// that is not computed here.
const OTHER_METHODS: [(&str, &str); 12] = [
    (".hada_", "LoHa (Hadamard products)"),
    (".lokr_", "LoKr (Kronecker products)"),
    (".lora_mid.", "a convolution in Tucker form (lora_mid)"),
    (".oft_", "OFT (rotations)"),
    (".boft_", "BOFT (rotations)"),
    (".diff.", "whole differences of weights (diff)"),
    (".diff_b.", "whole differences of biases (diff_b)"),
    (".on_input", "IA3 (factors)"),
    (".b1.weight", "GLoRA"),
    (".lora_B.bias", "a LoRA with biases"),
    (".lora_up.bias", "a LoRA with biases"),
    ("bundle_emb.", "a LoRA with embeddings of new words"),
];

/// What a name contains that only adapters of other kinds of model have.
const OTHER_MODELS: [(&str, &str); 7] = [
    ("double_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("single_blocks", "Flux"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("lora_transformer_", "a diffusion transformer such as Stable Diffusion 3"),
    ("transformer.transformer_blocks", "a diffusion transformer such as Stable Diffusion 3"),
    ("diffusion_model.", "a diffusion transformer"),
];

/// How the names of a whole model in a single file begin.
const WHOLE_MODELS: [&str; 4] =
    ["model.diffusion_model.", "cond_stage_model.", "conditioner.embedders.", "first_stage_model."];

impl Key {
    /// Takes `name` apart.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the tensor: of another method, of another kind
    /// of model, or of none that is known.
    pub fn read(name: &str) -> Result<Key> {
        let shown = cut(name);
        if WHOLE_MODELS.iter().any(|start| name.starts_with(start)) {
            return Err(Error::model(format!("{shown}: a tensor of a whole model, not of a LoRA"))
                .advice("give this file to `model`, and a LoRA to `lora`"));
        }
        if let Some((_, model)) = OTHER_MODELS.iter().find(|(part, _)| name.contains(part)) {
            return Err(Error::model(format!("{shown}: this adapter is made for {model}"))
                .advice("use an adapter made for Stable Diffusion 1.x, 2.x or XL"));
        }
        let ended = format!("{name}.");
        if let Some((_, method)) = OTHER_METHODS.iter().find(|(part, _)| ended.contains(part)) {
            return Err(Error::model(format!("{shown}: this is {method}, which is not supported")).advice(
                "use a LoRA of plain matrices (lora_down and lora_up, or lora_A and lora_B), or merge it into the model \
                 with the program that made it",
            ));
        }
        if name.starts_with("base_model.model.") {
            return Err(Error::model(format!(
                "{shown}: a PEFT adapter without the name of its component; its alpha is in adapter_config.json"
            ))
            .advice("save it with save_lora_weights of the pipeline in diffusers"));
        }
        let unknown = || {
            Error::model(format!("{shown}: not the name of a tensor of a LoRA"))
                .advice("use a file that diffusers, PEFT or kohya's trainer wrote")
        };
        // The longest ending is the one that was meant.
        let ending = ROLES.iter().filter(|(end, _)| name.ends_with(end)).max_by_key(|(end, _)| end.len());
        let (end, role) = ending.ok_or_else(unknown)?;
        let whole = &name[..name.len() - end.len()];
        let prefix = COMPONENTS.iter().find_map(|(prefix, of)| Some((*of, whole.strip_prefix(prefix)?)));
        let old = || OF_THE_UNET.iter().any(|start| whole.starts_with(start)).then_some(("unet", whole));
        let (component, layer) = prefix.or_else(old).ok_or_else(unknown)?;
        let layer = layer.replace(".processor.", ".").replace('.', "_");
        Ok(Key { component, layer: present(component, &layer), role: *role })
    }
}

/// A layer by the name that it has in the model now.
fn present(component: &str, layer: &str) -> String {
    let ends = |from: &str, to: &str| layer.strip_suffix(from).map(|head| format!("{head}{to}"));
    if component == "unet" {
        // Old attention processors leave out the place in the list.
        return ends("_to_out", "_to_out_0").unwrap_or_else(|| layer.to_string());
    }
    let projections = [("q", "q"), ("k", "k"), ("v", "v"), ("out", "out")];
    let renamed = projections
        .iter()
        .find_map(|(old, new)| ends(&format!("_self_attn_to_{old}"), &format!("_self_attn_{new}_proj")));
    without_outer(&renamed.unwrap_or_else(|| layer.to_string())).to_string()
}

/// A layer of a text encoder without the outer name, which only some files have.
pub fn without_outer(layer: &str) -> &str {
    layer.strip_prefix("text_model_").unwrap_or(layer)
}

/// The layer of diffusers' UNet that the original program, and with it kohya's trainer for XL, calls `name`;
/// `layers` is the number of residual blocks of a level on the way down. `None` for any other name.
pub fn of_original(name: &str, layers: usize) -> Option<String> {
    const OUTER: [(&str, &str); 6] = [
        ("time_embed_0", "time_embedding_linear_1"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("label_emb_0_0", "add_embedding_linear_1"),
        ("label_emb_0_2", "add_embedding_linear_2"),
        ("input_blocks_0_0", "conv_in"),
        ("out_2", "conv_out"),
    ];
    if let Some((_, present)) = OUTER.iter().find(|(original, _)| *original == name) {
        return Some((*present).to_string());
    }
    if let Some(rest) = name.strip_prefix("middle_block_") {
        let (block, rest) = number(rest)?;
        let place = match block {
            0 => "resnets_0",
            1 => "attentions_0",
            2 => "resnets_1",
            _ => return None,
        };
        return Some(format!("mid_block_{place}_{}", inner(rest)));
    }
    let down = name.strip_prefix("input_blocks_");
    let (block, rest) = number(down.or_else(|| name.strip_prefix("output_blocks_"))?)?;
    let (part, rest) = number(rest)?;
    let (block, side) = if down.is_some() { (block.checked_sub(1)?, "down") } else { (block, "up") };
    let (level, layer) = (block / (layers + 1), block % (layers + 1));
    let place = match (part, rest) {
        (0, "op") => "downsamplers_0_conv".to_string(),
        (_, "conv") => "upsamplers_0_conv".to_string(),
        (0, rest) => format!("resnets_{layer}_{}", inner(rest)),
        (1, rest) => format!("attentions_{layer}_{rest}"),
        _ => return None,
    };
    Some(format!("{side}_blocks_{level}_{place}"))
}

/// A layer of a residual block; those of transformers have one name.
fn inner(layer: &str) -> &str {
    match layer {
        "in_layers_2" => "conv1",
        "emb_layers_1" => "time_emb_proj",
        "out_layers_3" => "conv2",
        "skip_connection" => "conv_shortcut",
        other => other,
    }
}

/// `4_1_proj` is 4 and `1_proj`.
fn number(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('_')?;
    Some((digits.parse().ok().filter(|n| *n < 1000)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_a_layer_means_the_same() {
        let q = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q";
        let dotted = "down_blocks.0.attentions.1.transformer_blocks.0.attn1";
        for name in [
            format!("lora_unet_{q}.lora_down.weight"),
            format!("unet.{dotted}.to_q.lora.down.weight"),
            format!("unet.{dotted}.to_q.lora_A.weight"),
            format!("unet.{dotted}.processor.to_q_lora.down.weight"),
            format!("{dotted}.processor.to_q_lora.down.weight"),
        ] {
            let found = Key::read(&name).expect(&name);
            assert_eq!(
                (found.component, found.layer.as_str(), found.role),
                ("unet", q, Role::Down),
                "{name}"
            );
        }
        let out = Key::read(&format!("{dotted}.processor.to_out_lora.up.weight")).expect("a layer");
        assert!(out.layer.ends_with("attn1_to_out_0") && out.role == Role::Up, "{out:?}");
        for name in [
            "lora_te1_text_model_encoder_layers_3_self_attn_v_proj.dora_scale",
            "text_encoder.text_model.encoder.layers.3.self_attn.v_proj.lora_magnitude_vector",
            "text_encoder.encoder.layers.3.self_attn.v_proj.lora_magnitude_vector.weight",
        ] {
            let found = Key::read(name).expect(name);
            let expected = ("text_encoder", "encoder_layers_3_self_attn_v_proj", Role::Magnitude);
            assert_eq!((found.component, found.layer.as_str(), found.role), expected, "{name}");
        }
        let old = Key::read("text_encoder.text_model.encoder.layers.3.self_attn.to_v_lora.up.weight");
        assert_eq!(old.expect("old").layer, "encoder_layers_3_self_attn_v_proj");
        let second = Key::read("lora_te2_text_projection.alpha").expect("an alpha");
        assert_eq!((second.component, second.layer.as_str()), ("text_encoder_2", "text_projection"));
    }

    #[test]
    fn the_original_names_of_xl_are_mapped() {
        for (original, present) in [
            ("input_blocks_0_0", "conv_in"),
            ("input_blocks_2_0_in_layers_2", "down_blocks_0_resnets_1_conv1"),
            ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
            ("input_blocks_4_0_skip_connection", "down_blocks_1_resnets_0_conv_shortcut"),
            (
                "input_blocks_4_1_transformer_blocks_1_attn2_to_k",
                "down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k",
            ),
            ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
            ("middle_block_2_emb_layers_1", "mid_block_resnets_1_time_emb_proj"),
            ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
            ("output_blocks_5_0_out_layers_3", "up_blocks_1_resnets_2_conv2"),
            ("label_emb_0_2", "add_embedding_linear_2"),
            ("out_2", "conv_out"),
        ] {
            assert_eq!(of_original(original, 2).as_deref(), Some(present), "{original}");
        }
        for other in ["conv_in", "down_blocks_0_resnets_0_conv1", "input_blocks_x", "input_blocks_0_1_op", ""]
        {
            assert_eq!(of_original(other, 2), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_lora_for_these_models_is_named() {
        for (name, said) in [
            ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
            ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
            ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "Tucker"),
            ("lora_unet_mid_block_resnets_0_conv1.diff", "whole differences of weights"),
            ("lora_unet_mid_block_resnets_0_conv1.diff_b", "whole differences of biases"),
            ("unet.mid_block.attentions.0.proj_in.lora_B.bias", "biases"),
            ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "made for Flux"),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "Stable Diffusion 3"),
            ("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight", "adapter_config.json"),
            ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a diffusion transformer"),
            ("model.diffusion_model.input_blocks.0.0.weight", "a whole model"),
            ("first_stage_model.decoder.conv_in.weight", "a whole model"),
            ("model.diffusion_model", "not the name"),
            ("lora_te3_encoder.lora_down.weight", "not the name"),
            ("", "not the name"),
        ] {
            let error = Key::read(name).expect_err(name);
            assert!(error.message().contains(said) && error.advice_text().is_some(), "{name}: {error}");
        }
    }
}
