#pragma once

/// Every public header includes this one first. It checks the compiler, the C library, the standard library and Asio,
/// and reports each missing requirement in one sentence. It also enables Asio's coroutines where Asio does not do so
/// itself; this must happen before Asio's first header.

#if !defined(__linux__)
#error "drover runs on Linux only"
#endif
#if __cplusplus < 202002L
#error "drover needs C++20: compile with -std=c++20 or later"
#endif
#if !defined(__cpp_exceptions)
#error "drover reports errors by exceptions: compile without -fno-exceptions"
#endif
#if !defined(__cpp_rtti) && !defined(ASIO_NO_TYPEID)
#error "drover without RTTI: define ASIO_NO_TYPEID for the whole program, or Asio asks for typeid"
#endif

#include <features.h>
// glibc has sigabbrev_np(3) since 2.32 and posix_spawn_file_actions_addclosefrom_np() since 2.34.
#if !defined(__GLIBC__) || !defined(__GLIBC_PREREQ)
#error "drover needs glibc 2.34 or later: this C library (musl, for example) lacks functions that drover calls"
#elif !__GLIBC_PREREQ(2, 34)
#error "drover needs glibc 2.34 or later: this glibc is older"
#endif

#include <version>
#if defined(_LIBCPP_VERSION) && !defined(__cpp_lib_jthread)
#error "drover needs std::stop_token: compile with -fexperimental-library (libc++ 18 or later) or use libstdc++"
#elif !defined(__cpp_lib_jthread)
#error "drover needs std::stop_token, which this standard library lacks"
#endif

#if !__has_include(<asio/version.hpp>)
#error "drover needs the headers of standalone Asio, 1.22 or later (Debian, Ubuntu: libasio-dev)"
#endif
// With Clang, Asio detects C++20's coroutines only since 1.26.
#if defined(__clang__) && !defined(ASIO_DETAIL_CONFIG_HPP)
#if !defined(ASIO_HAS_CO_AWAIT) && !defined(ASIO_DISABLE_CO_AWAIT)
#define ASIO_HAS_CO_AWAIT 1
#endif
#if !defined(ASIO_HAS_STD_COROUTINE) && !defined(ASIO_DISABLE_STD_COROUTINE)
#define ASIO_HAS_STD_COROUTINE 1
#endif
#endif
#include <asio/detail/config.hpp>
#include <asio/version.hpp>
#if ASIO_VERSION < 102200
#error "drover needs Asio 1.22 or later: the headers that were found are older"
#endif
#if !defined(ASIO_HAS_CO_AWAIT) || !defined(ASIO_HAS_STD_COROUTINE)
#error "Asio has no coroutines here: include drover first, or define ASIO_HAS_CO_AWAIT=1 and ASIO_HAS_STD_COROUTINE=1"
#endif
