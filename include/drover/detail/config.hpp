#pragma once

/// drover is header-only unless DROVER_SEPARATE_COMPILATION is defined, for all files of the program that include it.
/// What is no template is then compiled once, in the one source file of the program that includes drover/src.hpp.
#if defined(DROVER_SEPARATE_COMPILATION)
#define DROVER_INLINE
#else
#define DROVER_INLINE inline
#endif
