//! The processor's name.

use std::fs;

/// The name that the processor, or else the system, gives: `AMD EPYC 7763 64-Core Processor`.
pub(crate) fn name() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    if let Some(brand) = x86_64::brand() {
        return Some(brand);
    }
    of_cpuinfo(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// The first processor's name in Linux's `/proc/cpuinfo`.
fn of_cpuinfo(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::{__cpuid, CpuidResult};

    /// The leaf that says which extended leaves there are, and those with the brand string
    /// (Intel SDM, volume 2A, CPUID; AMD APM, volume 3, appendix E).
    const EXTENDED: u32 = 0x8000_0000;
    const BRAND: [u32; 3] = [0x8000_0002, 0x8000_0003, 0x8000_0004];

    pub(super) fn brand() -> Option<String> {
        let leaves = leaf(EXTENDED).eax;
        (leaves >= BRAND[2]).then(|| text(BRAND.map(leaf)))?
    }

    fn leaf(number: u32) -> CpuidResult {
        // SAFETY: every x86-64 processor has `cpuid`.
        #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
        unsafe {
            __cpuid(number)
        }
    }

    /// The text that three leaves hold, filled up with spaces and zeros; `None` if it is empty.
    fn text(leaves: [CpuidResult; 3]) -> Option<String> {
        let registers = leaves.map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
        let bytes: Vec<u8> =
            registers.as_flattened().iter().flat_map(|r| r.to_le_bytes()).collect();
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn leaves(text: &[u8]) -> [CpuidResult; 3] {
            let mut bytes = [0; 48];
            bytes[..text.len()].copy_from_slice(text);
            let register = |at: usize| {
                u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            [0, 16, 32].map(|at| CpuidResult {
                eax: register(at),
                ebx: register(at + 4),
                ecx: register(at + 8),
                edx: register(at + 12),
            })
        }

        #[test]
        fn the_brand_is_what_the_leaves_hold_without_what_fills_them_up() {
            let padded = b"      Intel(R) Xeon(R) Gold 6226R CPU @ 2.90GHz";
            assert_eq!(
                text(leaves(padded)).as_deref(),
                Some("Intel(R) Xeon(R) Gold 6226R CPU @ 2.90GHz")
            );
            let full = [b'x'; 48];
            assert_eq!(text(leaves(&full)), Some("x".repeat(48)));
            assert_eq!(text(leaves(b"AMD \0 left over")).as_deref(), Some("AMD"));
            assert_eq!(text(leaves(b"   ")), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_model_name_of_cpuinfo_counts() {
        let text =
            "processor\t: 0\nmodel name\t: One @ 2: GHz \nprocessor\t: 1\nmodel name\t: Two\n";
        assert_eq!(of_cpuinfo(text).as_deref(), Some("One @ 2: GHz"));
        assert_eq!(of_cpuinfo("processor\t: 0\nmodel\t: 7\n"), None);
    }

    /// Linux takes the name from the same leaves; measurements that are kept by it stay valid.
    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn the_processor_and_linux_agree_on_the_name() {
        let own = name().expect("x86-64 processors have names");
        let text = fs::read_to_string("/proc/cpuinfo").unwrap();
        // Some sandboxes hide it.
        let linux = of_cpuinfo(&text).filter(|name| name != "unknown");
        assert!(linux.is_none_or(|linux| linux == own), "{own}");
    }
}
