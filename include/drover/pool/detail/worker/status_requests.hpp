#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <drover/detail/context/async_event.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One caller of status().
struct StatusWaiter {
  const std::shared_ptr<AsyncEvent> answered = std::make_shared<AsyncEvent>();
  std::optional<WorkerStatus> status{};
  std::exception_ptr failure{};

  bool has_ended() const noexcept { return status || failure; }
  void end_with(WorkerStatus value) {
    if (has_ended()) return;
    status = value;
    answered->set();
  }
  void end_with(std::exception_ptr error) {
    if (has_ended()) return;
    failure = std::move(error);
    answered->set();
  }
};

/// The callers of status() of one worker. However many there are, one STATUS is on its way at a time: those that come
/// while it is share the next one, so that no answer is older than its question. Under the dispatcher's mutex.
class StatusRequests {
 public:
  bool empty() const noexcept { return asked_.empty() && waiting_.empty(); }

  /// True if a STATUS is to be sent now, with begin().
  bool add(const std::shared_ptr<StatusWaiter>& waiter) {
    // Callers that gave up stay behind as empty entries; clear them out before the list would grow.
    if (waiting_.size() == waiting_.capacity())
      std::erase_if(waiting_, [](const auto& weak) { return weak.expired(); });
    waiting_.push_back(waiter);
    return !under_way_;
  }
  /// The id of the STATUS that is sent for all that wait.
  std::uint64_t begin() noexcept {
    asked_ = std::exchange(waiting_, {});
    under_way_ = true;
    return ++last_id_;
  }
  /// The answer to the STATUS of that id. False if there was no such STATUS, or it was answered before.
  bool answer(std::uint64_t id, const WorkerStatus& status) {
    if (!under_way_ || id != last_id_) return false;
    under_way_ = false;
    for (const auto& weak : std::exchange(asked_, {}))
      if (const auto waiter = weak.lock()) waiter->end_with(status);
    return true;
  }
  /// Some have come while the last one was on its way.
  bool wants_another() const noexcept { return !under_way_ && !waiting_.empty(); }

  /// For tests: callers that there is room for.
  std::size_t capacity() const noexcept { return waiting_.capacity(); }

  void fail(const std::function<std::exception_ptr()>& cause) {
    for (auto* list : {&asked_, &waiting_})
      for (const auto& weak : std::exchange(*list, {}))
        if (const auto waiter = weak.lock()) waiter->end_with(cause());
  }

 private:
  std::vector<std::weak_ptr<StatusWaiter>> asked_, waiting_;
  std::uint64_t last_id_ = 0;
  bool under_way_ = false;
};

}}}  // namespace drover::v1::detail
