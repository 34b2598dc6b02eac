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

/// What drover itself reports. Failures of the operating system are std::system_error with the errno, cancellation is
/// asio::error::operation_aborted, and misuse std::invalid_argument or std::logic_error.
namespace drover { inline namespace v1 {

enum class Errc {
  start_timeout = 1,  ///< the worker was not ready in time; it has been ended
  start_failed,       ///< the worker ended before it was ready
  version_mismatch,   ///< the worker speaks another version of drover's protocol
  protocol_error,     ///< bytes that are no message of drover's
  not_running,        ///< not ready yet, no longer, or moved from; in a forked copy of the program
  stopping,           ///< a stop is under way or over
  deadline_exceeded,  ///< the bound given for the operation has passed
  worker_exited,      ///< the worker ended while it owed an answer
  connection_lost,    ///< the worker closed its channel, or its io_context has gone
  unknown_routine,    ///< the worker has no routine of that name
  bad_arguments,      ///< the arguments or the result are not those of the routine
  overloaded,         ///< as many calls wait already as may wait
  message_too_large,  ///< over max_message_size
  no_such_worker,     ///< no worker has the tags asked for
  pool_failed,        ///< the pool gave up restarting its workers
};

namespace detail {

class ErrorCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "drover"; }

  std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::start_timeout: return "The worker did not become ready in time.";
      case Errc::start_failed: return "The worker ended before it was ready.";
      case Errc::version_mismatch: return "The worker speaks another version of the protocol.";
      case Errc::protocol_error: return "What was received is not a valid message.";
      case Errc::not_running: return "There is no running process behind this object.";
      case Errc::stopping: return "It is being stopped, or has been stopped.";
      case Errc::deadline_exceeded: return "The deadline has passed.";
      case Errc::worker_exited: return "The worker ended before it answered.";
      case Errc::connection_lost: return "The worker closed its connection.";
      case Errc::unknown_routine: return "The worker has no such routine.";
      case Errc::bad_arguments: return "The arguments do not fit the routine.";
      case Errc::overloaded: return "Too many calls are waiting already.";
      case Errc::message_too_large: return "The message is larger than max_message_size.";
      case Errc::no_such_worker: return "No worker has the tags that were asked for.";
      case Errc::pool_failed: return "The pool gave up because its workers keep ending.";
    }
    return "An unknown error of drover's.";
  }
};

/// Never destroyed, so that codes stay good in destructors of globals.
inline const std::error_category& error_category() noexcept {
  static const ErrorCategory& category = *new ErrorCategory;
  return category;
}

}  // namespace detail

inline std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), detail::error_category()};
}

/// An Errc with what it was about and, where a process's end is the cause, how that ended.
class Error : public std::system_error {
 public:
  Error(Errc code, const std::string& what, std::optional<ExitStatus> exit_status = {})
      : system_error(make_error_code(code), exit_status ? what + " (" + exit_status->to_string() + ")" : what),
        exit_status_(exit_status) {}

  const std::optional<ExitStatus>& exit_status() const noexcept { return exit_status_; }

 private:
  std::optional<ExitStatus> exit_status_;
};

/// A routine threw in its worker; what() is the text of that exception.
class RemoteError : public std::runtime_error {
 public:
  RemoteError(std::string type, const std::string& text) : runtime_error(text), type_(std::move(type)) {}

  /// The readable name of the exception's type.
  std::string_view type() const noexcept { return type_; }

 private:
  std::string type_;
};

}}  // namespace drover::v1

template <>
struct std::is_error_code_enum<drover::Errc> : std::true_type {};
