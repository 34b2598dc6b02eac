#pragma once

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls whose time has passed, from their end, which needs the dispatcher's mutex, until their callers are completed,
/// which must not hold it.
class ExpiredCalls {
 public:
  /// Prepares add() of a call that has not ended yet. False if there is no memory for it.
  bool prepare(const Call& call, Clock::time_point now) {
    try {
      text_ = text_of(call, now);
      if (calls_.size() == calls_.capacity()) calls_.reserve(2 * calls_.size() + 8);
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }
  void add(std::shared_ptr<Call> call) noexcept { calls_.emplace_back(std::move(call), std::move(text_)); }

  /// Without the mutex.
  void complete() {
    for (auto& [call, text] : calls_) {
      // A statement of its own: the Error that is copied here is destroyed before the caller, perhaps on another
      // thread, gets its own. ThreadSanitizer does not see the reference count of the text that libstdc++ lets them
      // share.
      auto failure = std::make_exception_ptr(Error(Errc::deadline_exceeded, text));
      Call::complete_with_error(std::move(call), std::move(failure));
    }
  }

 private:
  static std::string text_of(const Call& call, Clock::time_point now) {
    const bool ran = call.state == CallState::running;
    if (ran && !call.awaits_begun && call.run_for && !(call.due && *call.due <= now))
      return "the call of '" + call.routine() + "' ran for longer than CallOptions::run_for in " +
             call.link->worker().describe();
    return "the call of '" + call.routine() + "' did not end in time; it " +
           (ran ? (call.awaits_begun ? "waited in " : "ran in ") + call.link->worker().describe()
            : call.state == CallState::resting ? "rested before another attempt"
                                               : "waited for a free worker");
  }

  std::vector<std::pair<std::shared_ptr<Call>, std::string>> calls_;
  std::string text_;  // of the next one
};

}}}  // namespace drover::v1::detail
