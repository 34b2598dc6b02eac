#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// How often a call is made, if workers exit under it. See CallOptions::retry.
struct Retry {
  unsigned attempts = 1;  ///< in all; 1: it is not repeated
  Duration backoff{};     ///< the rest before each further attempt
};

/// What becomes of a call that finds the queue of a pool full.
enum class WhenFull {
  refuse,  ///< it fails with Errc::overloaded
  wait     ///< it waits behind the calls in the queue
};

}}  // namespace drover::v1
