//! The golden prompts with pictures, from their pixel values.

use moexperts::{PixelValues, Visual};

use crate::common::{Golden, data};

pub(crate) const CASE: &str = "qwen3_vl_moe";
pub(crate) const PROMPTS: [&str; 5] = ["text", "one", "two", "middle", "video"];

pub(crate) fn golden(prompt: &str) -> Golden {
    Golden::read(&data(CASE).join(format!("golden_{prompt}.safetensors")))
}

/// The pictures of a golden prompt, from its pixel values.
pub(crate) fn visuals(prompt: &str, golden: &Golden) -> Vec<Visual> {
    if !golden.contains("grid_thw") {
        return Vec::new();
    }
    let grids: Vec<usize> = golden.values("grid_thw").iter().map(|&size| size as usize).collect();
    let name = if prompt == "video" { "pixel_values_videos" } else { "pixel_values" };
    let mut values = golden.values(name).iter().map(|&value| value as f32);
    let patch_len = 96;
    let visual = |grid: &[usize]| {
        let grid: [usize; 3] = grid.try_into().unwrap();
        let len = grid.iter().product::<usize>() * patch_len;
        let pixels = PixelValues::new(grid, patch_len, values.by_ref().take(len).collect());
        match prompt {
            "video" => Visual::video(pixels.unwrap(), vec![0.75, 2.5]),
            _ => Visual::image(pixels.unwrap()),
        }
    };
    grids.chunks(3).map(visual).collect()
}
