#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <drover/exit_status.hpp>

/// The errors that drover itself reports. A failed system call is a std::system_error with its errno, cancellation is
/// asio::error::operation_aborted, and misuse is std::invalid_argument or std::logic_error.
namespace drover { inline namespace v1 {

enum class Errc {
  start_timeout = 1,  ///< the worker was not ready in time and has been terminated
  start_failed,       ///< the worker exited before it was ready, or its on_start() threw
  version_mismatch,   ///< the worker speaks another version of drover's protocol
  protocol_error,     ///< the received bytes are not a drover message
  not_running,        ///< not ready yet, no longer running, moved from, or used in a forked copy of the program
  stopping,           ///< a stop is in progress or has finished
  deadline_exceeded,  ///< the time limit of the operation has passed
  worker_exited,      ///< the worker exited before it answered
  connection_lost,    ///< the worker closed its socket, or the io_context of the worker object was destroyed
  unknown_routine,    ///< the worker has no routine of that name
  bad_arguments,      ///< the arguments or the result do not match the routine
  overloaded,         ///< the queue of waiting calls is full
  message_too_large,  ///< the message is larger than max_message_size
  no_such_worker,     ///< no worker has the requested tags
  pool_failed,        ///< the pool gave up replacing its workers
  poisoned,           ///< workers have died under calls with the same CallOptions::key
};

namespace detail {

class ErrorCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "drover"; }

  std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::start_timeout: return "The worker did not become ready in time.";
      case Errc::start_failed: return "The worker exited before it was ready.";
      case Errc::version_mismatch: return "The worker speaks another version of the protocol.";
      case Errc::protocol_error: return "The received data is not a valid message.";
      case Errc::not_running: return "There is no running process behind this object.";
      case Errc::stopping: return "The worker or pool is being stopped, or has been stopped.";
      case Errc::deadline_exceeded: return "The deadline has passed.";
      case Errc::worker_exited: return "The worker exited before it answered.";
      case Errc::connection_lost: return "The worker closed its connection.";
      case Errc::unknown_routine: return "The worker has no such routine.";
      case Errc::bad_arguments: return "The arguments do not fit the routine.";
      case Errc::overloaded: return "Too many calls are waiting already.";
      case Errc::message_too_large: return "The message is larger than max_message_size.";
      case Errc::no_such_worker: return "No worker has the tags that were asked for.";
      case Errc::poisoned: return "Workers keep dying under calls with this key.";
      case Errc::pool_failed: return "The pool gave up because its workers keep failing.";
    }
    return "Unknown drover error.";
  }
};

/// Never destroyed, so that error codes stay valid in the destructors of global objects.
inline const std::error_category& error_category() noexcept {
  static const ErrorCategory& category = *new ErrorCategory;
  return category;
}

}  // namespace detail

inline std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), detail::error_category()};
}

/// An Errc with a description and, if the exit of a process is the cause, its exit status.
class Error : public std::system_error {
 public:
  Error(Errc code, const std::string& what, std::optional<ExitStatus> exit_status = {})
      : system_error(make_error_code(code), exit_status ? what + " (" + exit_status->to_string() + ")" : what),
        exit_status_(exit_status) {}

  const std::optional<ExitStatus>& exit_status() const noexcept { return exit_status_; }

 private:
  std::optional<ExitStatus> exit_status_;
};

/// Thrown to the caller when a routine threw in its worker; what() is the text of the original exception.
class RemoteError : public std::runtime_error {
 public:
  RemoteError(std::string type, const std::string& text) : runtime_error(text), type_(std::move(type)) {}

  /// The readable type name of the original exception.
  std::string_view type() const noexcept { return type_; }

 private:
  std::string type_;
};

}}  // namespace drover::v1

template <>
struct std::is_error_code_enum<drover::Errc> : std::true_type {};
