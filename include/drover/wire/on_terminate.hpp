#pragma once

#include <drover/detail/platform.hpp>

#include <cstdint>

namespace drover { inline namespace v1 {

/// How a worker that serves reacts to a SIGTERM or SIGHUP from outside, see WorkerOptions::on_terminate. Once the
/// parent has asked the worker to stop, or has died, such a signal cancels the calls in flight in any case.
enum class OnTerminate : std::uint8_t {
  cancel,          ///< cancels the calls in flight and exits
  drain,           ///< lets the calls in flight finish, however long they take, and exits; a second signal cancels them
  leave_to_parent  ///< nothing while the parent lives: for service managers that signal the whole control group
};

}}  // namespace drover::v1
