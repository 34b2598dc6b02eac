#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <drover/detail/current_call.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Refuses calls: those that the options of a worker or pool do not admit, and all of them before its start and from
/// its stop on. Guarded by the dispatcher's mutex, except max_message_size().
class CallAdmission {
 public:
  CallAdmission(const WorkerOptions& worker, std::optional<std::size_t> max_queued)
      : tags_(worker.tags.value()), max_message_size_(worker.max_message_size), max_queued_(max_queued) {}

  std::size_t max_message_size() const noexcept { return max_message_size_; }

  /// New calls fail with `cause` from now on; nullptr accepts them again. `keeps_queue`: waiting calls are still sent.
  void refuse(Cause cause, bool keeps_queue) noexcept {
    refusal_ = std::move(cause);
    keeps_queue_ = keeps_queue;
  }
  /// The same for good, unless they fail already. Waiting calls are not sent any more.
  void refuse_for_good(const Cause& cause) {
    keeps_queue_ = false;
    if (!refusal_) refusal_ = cause;
  }
  /// Why new calls fail. Empty: they do not.
  const Cause& refusal() const noexcept { return refusal_; }
  /// New calls fail, and those that wait are not sent any more.
  bool refuses_queued() const noexcept { return refusal_ && !keeps_queue_; }

  /// Null if the call is admitted.
  std::exception_ptr reason_to_refuse(const Call& call, const CallOptions& options) const {
    if (refusal_) return refusal_();
    const std::set<std::string>& tags = options.tags.value();
    if (!std::includes(tags_.begin(), tags_.end(), tags.begin(), tags.end())) {
      std::string wanted;
      for (const auto& tag : tags)
        if (!tags_.contains(tag)) wanted += (wanted.empty() ? "" : ", ") + tag;
      return failed(Errc::no_such_worker,
                    "no worker has these tags: " + wanted + " (CallOptions::tags, WorkerOptions::tags)");
    }
    if (call.request.counted_size() > max_message_size_)
      return failed(Errc::message_too_large, "the arguments take " + std::to_string(call.request.counted_size()) +
                                                 " bytes, WorkerOptions::max_message_size allows " +
                                                 std::to_string(max_message_size_));
    const bool inherited = current_call != nullptr && call.due;
    if ((options.deadline && *options.deadline <= Duration::zero()) || (inherited && *call.due <= Clock::now()))
      return failed(Errc::deadline_exceeded, "the deadline of the call of '" + call.routine() + "' had already passed");
    return nullptr;
  }
  /// The same for one that would have to wait, with so many others.
  std::exception_ptr reason_not_to_queue(std::size_t waiting) const {
    if (!max_queued_ || waiting < *max_queued_) return nullptr;
    return failed(Errc::overloaded,
                  "the queue is full: " + std::to_string(waiting) + " calls are waiting (PoolOptions::max_queued)");
  }

 private:
  static std::exception_ptr failed(Errc code, const std::string& text) {
    return std::make_exception_ptr(Error(code, text));
  }

  const std::set<std::string> tags_;
  const std::size_t max_message_size_;
  const std::optional<std::size_t> max_queued_;
  Cause refusal_;
  bool keeps_queue_ = false;
};

}}}  // namespace drover::v1::detail
