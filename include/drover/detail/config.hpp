#pragma once

/// drover is header-only unless DROVER_SEPARATE_COMPILATION is defined in all files of the program that include it. In
/// that case all non-template code of drover is compiled once, in the one source file that includes drover/src.hpp.
#if defined(DROVER_SEPARATE_COMPILATION)
#define DROVER_INLINE
#else
#define DROVER_INLINE inline
#endif
