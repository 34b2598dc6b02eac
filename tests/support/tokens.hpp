#pragma once

#include <asio/use_awaitable.hpp>
#include <asio/version.hpp>
#if ASIO_VERSION < 102800
#include <asio/experimental/as_tuple.hpp>
#include <asio/experimental/deferred.hpp>
#else
#include <asio/as_tuple.hpp>
#include <asio/deferred.hpp>
#endif

/// Completion tokens that have other names in older versions of Asio.
namespace support {

#if ASIO_VERSION < 102800
inline constexpr auto lazy = asio::experimental::deferred;
inline constexpr auto as_tuple = asio::experimental::as_tuple(asio::use_awaitable);
#else
inline constexpr auto lazy = asio::deferred;
inline constexpr auto as_tuple = asio::as_tuple(asio::use_awaitable);
#endif

}  // namespace support
