// The C library as another one, or as an older glibc.
#include_next <features.h>
#if defined(FAKE_OTHER_LIBC)
#undef __GLIBC__
#elif defined(FAKE_OLD_GLIBC)
#undef __GLIBC_MINOR__
#define __GLIBC_MINOR__ 33
#endif
