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

/// Refuses the calls that the options of a worker or pool do not admit.
class CallAdmission {
 public:
  CallAdmission(const WorkerOptions& worker, std::optional<std::size_t> max_queued)
      : tags_(worker.tags.value()), max_message_size_(worker.max_message_size), max_queued_(max_queued) {}

  std::size_t max_message_size() const noexcept { return max_message_size_; }

  /// Empty if the call is admitted.
  std::optional<std::exception_ptr> reason_to_refuse(const Call& call, const CallOptions& options) const {
    const std::set<std::string>& tags = options.tags.value();
    if (!std::includes(tags_.begin(), tags_.end(), tags.begin(), tags.end())) {
      std::string wanted;
      for (const auto& tag : tags)
        if (!tags_.contains(tag)) wanted += (wanted.empty() ? "" : ", ") + tag;
      return failed(Errc::no_such_worker,
                    "no worker has these tags: " + wanted + " (CallOptions::tags, WorkerOptions::tags)");
    }
    if (call.request.size() > max_message_size_)
      return failed(Errc::message_too_large, "the arguments take " + std::to_string(call.request.size()) +
                                                 " bytes, WorkerOptions::max_message_size allows " +
                                                 std::to_string(max_message_size_));
    const bool inherited = current_call != nullptr && call.due;
    if ((options.deadline && *options.deadline <= Duration::zero()) || (inherited && *call.due <= Clock::now()))
      return failed(Errc::deadline_exceeded, "the deadline of the call of '" + call.routine() + "' had already passed");
    return std::nullopt;
  }
  /// The same for one that would have to wait, with so many others.
  std::optional<std::exception_ptr> reason_not_to_queue(std::size_t waiting) const {
    if (!max_queued_ || waiting < *max_queued_) return std::nullopt;
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
};

}}}  // namespace drover::v1::detail
