//! What there is of GPUs, drivers and libraries; nothing in a program without CUDA.

#[cfg(feature = "cuda")]
pub use with_cuda::{count, describe, is_usable, libraries};
#[cfg(not(feature = "cuda"))]
pub use without_cuda::{count, describe, is_usable, libraries};

pub fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(feature = "cuda")]
mod with_cuda {
    use std::fs;
    use std::path::Path;

    use crate::cli::gpus::gigabytes;
    use crate::cuda;
    use crate::session::Device;

    /// GPUs that the driver shows.
    pub fn count() -> usize {
        cuda::count().unwrap_or_default()
    }

    pub fn is_usable(ordinal: usize) -> bool {
        cuda::usable(ordinal).is_ok()
    }

    pub fn describe(ordinal: usize) -> String {
        let device = Device::Cuda(ordinal).to_string();
        match (cuda::info(ordinal), cuda::usable(ordinal)) {
            (Err(e), _) => format!("{device:<9} {}", e.message()),
            (Ok(info), usable) => {
                let (major, minor) = info.capability;
                let not =
                    usable.err().map_or(String::new(), |e| format!("; cannot be used: {}", e.message()));
                let memory = gigabytes(info.memory);
                let name = info.name;
                format!("{device:<9} {name}, compute capability {major}.{minor}, {memory} of memory{not}")
            }
        }
    }

    /// Findings by name.
    pub fn libraries() -> Vec<(&'static str, String)> {
        let found = |yes: bool, no: &str| if yes { "found".to_string() } else { format!("not found: {no}") };
        let driver = cuda::driver_version().map(|(major, minor)| format!("knows CUDA {major}.{minor}"));
        let driver =
            driver.unwrap_or_else(|| "not found: there is no NVIDIA GPU, or no driver for it".into());
        vec![
            ("driver", driver),
            ("NVRTC", found(cuda::has_nvrtc(), "only needed where the kernels are not in the program")),
            ("cuBLASLt", found(cuda::has_cublaslt(), "never needed; it makes some products faster")),
            ("cache", cache()),
        ]
    }

    /// Where what is compiled, timed and hashed on this machine is kept, and whether it can be.
    fn cache() -> String {
        let Some(folder) = crate::cache::folder() else {
            return "none: neither XDG_CACHE_HOME nor HOME is set to a whole path; nothing is kept between runs"
                .into();
        };
        let here = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().collect::<Vec<_>>();
        let in_all = here(&folder).into_iter().flat_map(|entry| match entry.path().is_dir() {
            true => here(&entry.path()),
            false => vec![entry],
        });
        let files = in_all.count();
        let written = fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder));
        match written {
            Ok(_) => format!("{}, {files} files", folder.display()),
            Err(e) => format!("{}, {files} files, cannot be written: {e}", folder.display()),
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod without_cuda {
    pub fn count() -> usize {
        0
    }

    pub fn is_usable(_: usize) -> bool {
        false
    }

    pub fn describe(_: usize) -> String {
        String::new()
    }

    pub fn libraries() -> Vec<(&'static str, String)> {
        vec![("CUDA", "not built in (feature cuda)".into())]
    }
}
