//! Which instruction set this process uses. Detected once; `KERNELS_ISA` forces a lower one.

use std::fmt;

/// Instruction sets with kernels of their own: the portable one, then each architecture's, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Portable Rust: the specification of every op.
    Scalar,
    /// AVX2 + FMA + F16C (Zen 1-3, Haswell and later).
    Avx2,
    /// AVX2 and VEX-encoded `vpdpbusd` (Alder Lake, Sierra Forest and later).
    AvxVnni,
    /// AVX-512 F/BW/VL/DQ + VNNI (Cascade Lake, Zen 4 and later).
    Avx512Vnni,
    /// NEON, which every aarch64 has (Cortex-A53 and later).
    Neon,
    /// NEON with `sdot` (Cortex-A76, Neoverse N1, Apple M1 and later).
    NeonDotprod,
    /// NEON with `sdot` and `smmla` (Neoverse V1 and N2, Apple M2 and later).
    NeonI8mm,
}

impl Isa {
    /// Every instruction set that has kernels, whether or not this machine can run it.
    pub const ALL: &[Isa] =
        &[Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm];

    /// Name as `KERNELS_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether this machine can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => false,
        }
    }

    /// Whether this machine can run it.
    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        use std::arch::is_aarch64_feature_detected;
        match self {
            Isa::Scalar => true,
            Isa::Neon => is_aarch64_feature_detected!("neon"),
            Isa::NeonDotprod => Isa::Neon.is_available() && is_aarch64_feature_detected!("dotprod"),
            Isa::NeonI8mm => Isa::NeonDotprod.is_available() && is_aarch64_feature_detected!("i8mm"),
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => false,
        }
    }

    /// Whether this machine can run it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Isa::Scalar
    }

    /// The highest one this machine can run.
    pub fn best() -> Isa {
        Isa::ALL.iter().copied().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// [`Isa::best`], or what the environment variable `KERNELS_ISA` names.
    ///
    /// # Errors
    /// A sentence for the user when the name is unknown or this machine cannot run it.
    pub fn from_environment() -> Result<Isa, String> {
        match std::env::var("KERNELS_ISA") {
            Ok(name) => Isa::parse(&name),
            Err(_) => Ok(Isa::best()),
        }
    }

    /// Parses a name and checks that this machine can run it.
    pub fn parse(name: &str) -> Result<Isa, String> {
        let known = || Isa::ALL.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        let isa = Isa::ALL
            .iter()
            .copied()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| format!("unknown instruction set `{name}`; known are {}", known()))?;
        if !isa.is_available() {
            return Err(format!("this machine cannot run `{name}`; its best is `{}`", Isa::best().name()));
        }
        Ok(isa)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
