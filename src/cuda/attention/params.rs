//! What an attention reads, and the numbers that its kernels take.

use crate::backend::Attention;
use crate::cuda::device::{Buffer, In};
use crate::cuda::launch::params;
use crate::tensor::Shape;

params! {
    /// Where queries, keys and values are; see attention.cuh.
    pub struct AttentionParams {
        pub queries: i32,
        pub keys: i32,
        pub heads: i32,
        pub d: i32,
        pub q_row: i32,
        pub kv_row: i32,
        pub y_row: i32,
        pub k_at: i32,
        pub v_at: i32,
        pub causal: i32,
        pub scale: f32,
    }
    /// A part of all score matrices: `rows` queries from `query` on of the heads from `first` on.
    pub struct ScoresParams {
        pub first: i64,
        pub query: i32,
        pub rows: i32,
        pub stride: i32,
    }
}

/// What an attention reads. For self-attention `q` and `kv` are the same.
pub struct Operands<'a> {
    pub q: &'a Buffer,
    pub kv: &'a Buffer,
    /// The row of `kv` for each sample; its own number where there is none.
    pub kv_of: Option<&'a Buffer>,
    pub samples: usize,
    pub p: AttentionParams,
}

impl Operands<'_> {
    pub fn kv_of(&self) -> In<'_, u32> {
        self.kv_of.map_or_else(In::none, Buffer::u32)
    }
}

impl AttentionParams {
    /// q, k and v side by side in rows of `3c`.
    #[track_caller]
    pub fn own(qkv: Shape, attention: Attention) -> AttentionParams {
        let c = qkv.c / 3;
        AttentionParams { q_row: 3 * c as i32, ..AttentionParams::new(qkv, qkv, c, c, attention) }
    }

    /// k and v side by side in rows of `2c`.
    #[track_caller]
    pub fn cross(q: Shape, kv: Shape, attention: Attention) -> AttentionParams {
        AttentionParams::new(q, kv, q.c, 0, attention)
    }

    #[track_caller]
    fn new(q: Shape, kv: Shape, c: usize, k_at: usize, attention: Attention) -> AttentionParams {
        let Attention { heads, scale, causal } = attention;
        // Products of a tile's row and the stride stay far within 32 bits.
        assert!(kv.c < 1 << 20 && q.tokens().max(kv.tokens()) < 1 << 30, "{q}, {kv}");
        AttentionParams {
            queries: q.tokens() as i32,
            keys: kv.tokens() as i32,
            heads: heads as i32,
            d: (c / heads) as i32,
            q_row: c as i32,
            kv_row: kv.c as i32,
            y_row: c as i32,
            k_at: k_at as i32,
            v_at: (k_at + c) as i32,
            causal: causal.into(),
            scale,
        }
    }
}
