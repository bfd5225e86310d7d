"""The contraction engine against cotengra, opt_einsum, quimb and cuTensorNet: `qrt-tn bench engine`."""
