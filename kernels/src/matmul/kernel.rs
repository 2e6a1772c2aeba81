//! What a kernel is given, and which kernel goes with which instruction set, layout and number of rows.

use super::activations::Headers;
use super::layout::{BLOCK, PANEL_ROWS, Packing};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx_vnni, avx2, avx512};
use crate::Isa;

/// Rows of inputs from which on codes are expanded once for all of them, with AVX-VNNI and AVX-512; AVX2 has a
/// number for each layout ([`avx2::Load`]).
#[cfg(target_arch = "x86_64")]
pub const EXPAND_ROWS: usize = 32;

/// A kernel that may use instructions of one set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub type UnsafePanelKernel = unsafe fn(&PanelArgs<'_>, &mut [[f32; PANEL_ROWS]]);

/// What some kernels want of their inputs besides their codes, made once for a few panels.
pub struct PreparedInputs {
    /// Of each block of 32 inputs.
    pub bytes: usize,
    /// From whole blocks; only for an instruction set of this machine.
    pub make: unsafe fn(&[i8], &mut [u8]),
}

/// Expands a panel's codes; only for an instruction set of this machine.
pub type Expand = unsafe fn(&[u8], &mut [u8]);

/// How codes are expanded to a byte each for many rows.
pub struct Expander {
    /// Rows of inputs from which on that is faster.
    pub from_rows: usize,
    pub expand: Expand,
}

/// What a kernel reads: one panel, and one group of quantised inputs.
pub struct PanelArgs<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [u8],
    pub blocks: usize,
    pub x: &'a [i8],
    pub headers: Headers<'a>,
    /// Of all blocks of `x`, in their order, where the kernel wants something ([`PreparedInputs`]).
    pub prepared: &'a [u8],
}

impl<'a> PanelArgs<'a> {
    /// No panel yet. Checks, once for many panels, what the kernels' unchecked reads rely on.
    pub fn of_group(blocks: usize, columns: usize, x: &'a [i8], headers: Headers<'a>) -> PanelArgs<'a> {
        assert!(x.len() == blocks * columns * BLOCK && headers.len() == blocks * columns);
        PanelArgs { codes: &[], scales: &[], blocks, x, headers, prepared: &[] }
    }

    /// Makes what the kernel wants besides.
    pub fn prepare(&mut self, preparation: &PreparedInputs, buffer: &'a mut Vec<u8>) {
        let bytes = self.x.len() / BLOCK * preparation.bytes;
        buffer.resize(buffer.len().max(bytes), 0);
        // SAFETY: an `Isa` in use was checked against this machine.
        unsafe { (preparation.make)(self.x, &mut buffer[..bytes]) };
        self.prepared = &buffer[..bytes];
    }

    /// The same without the first columns of the group, for kernels that want nothing prepared.
    #[cfg(target_arch = "x86_64")]
    pub fn skip_columns(&self, first: usize) -> PanelArgs<'a> {
        PanelArgs { x: &self.x[first * BLOCK..], headers: self.headers.skip_columns(first), ..*self }
    }

    /// `bytes`: of codes and of scales in a panel. Changes the fields in place, as copies of all of them
    /// would wait for the stores of the last panel's results.
    pub fn set_panel(&mut self, codes: &'a [u8], scales: &'a [u8], bytes: (usize, usize)) {
        assert!(codes.len() == bytes.0 && scales.len() == bytes.1);
        self.codes = codes;
        self.scales = scales;
    }
}

/// A kernel picked for this machine.
pub enum PanelKernel {
    Safe(fn(&PanelArgs<'_>, &mut [[f32; PANEL_ROWS]])),
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Unsafe(UnsafePanelKernel),
}

impl PanelKernel {
    pub fn call(&self, args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        match self {
            PanelKernel::Safe(kernel) => kernel(args, tile),
            // SAFETY: `args` come from `PanelArgs::of_group` and `set_panel` (of what `prepare` makes the kernels
            // check the length themselves), `tile` has the width the kernel was picked for, and an `Isa` in use
            // was checked against this machine.
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            PanelKernel::Unsafe(kernel) => unsafe { kernel(args, tile) },
        }
    }
}

/// The kernel for packed codes.
pub fn pick(isa: Isa, packing: Packing, width: usize) -> PanelKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => PanelKernel::Unsafe(avx512::kernel(packing, width)),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => PanelKernel::Unsafe(avx_vnni::kernel(packing, width)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => PanelKernel::Unsafe(avx2::kernel(packing, width)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => {
            PanelKernel::Unsafe(neon::kernel(isa, packing, width))
        }
        _ => {
            let _ = width;
            PanelKernel::Safe(scalar::kernel(packing))
        }
    }
}

/// What the kernels of `isa` want of their inputs besides their codes, packed or expanded.
pub fn preparation(isa: Isa, packing: Packing) -> Option<PreparedInputs> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::preparation(packing),
        _ => {
            let _ = packing;
            None
        }
    }
}

/// What expands codes, where kernels for expanded ones are faster.
pub fn expander(isa: Isa, packing: Packing) -> Option<Expander> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::expander(packing),
        // Its products are so fast that expanding is what takes long.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => {
            avx2::expander(packing).map(|expander| Expander { from_rows: EXPAND_ROWS, ..expander })
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::expander(packing),
        _ => {
            let _ = packing;
            None
        }
    }
}

/// Only where there is an [`expander`].
pub fn pick_expanded(isa: Isa, packing: Packing, width: usize) -> PanelKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => PanelKernel::Unsafe(avx2::expanded_kernel(packing, width)),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => PanelKernel::Unsafe(avx_vnni::expanded_kernel(packing, width)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => PanelKernel::Unsafe(avx512::expanded_kernel(packing, width)),
        _ => pick(isa, packing, width),
    }
}

/// Column counts the quantised kernels of `isa` take, for `rows` quantised rows.
pub fn widths(isa: Isa, rows: usize) -> &'static [usize] {
    let _ = rows;
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::widths(rows),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx_vnni::WIDTHS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::WIDTHS,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::widths(isa),
        _ => &[4, 3, 2, 1],
    }
}
