#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <sys/types.h>
#include <utility>

#include <drover/event.hpp>
#include <drover/pool/detail/event_sink.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Reports the events of one worker or one pool. Their memory is allocated before they happen, so that no event is lost
/// where memory is short. Without a sink it does nothing. Any thread.
class EventSource {
 public:
  /// `sink` may be null.
  EventSource(std::shared_ptr<EventSink> sink, std::string worker)
      : sink_(std::move(sink)), worker_(std::move(worker)) {}

  const std::shared_ptr<EventSink>& sink() const noexcept { return sink_; }

  /// Sets memory aside for so many events in all. Throws std::bad_alloc.
  void reserve(std::size_t count) {
    if (!sink_) return;
    const std::lock_guard held(mutex_);
    while (reserve_.size() < count) reserve_.splice(reserve_.end(), fresh());
  }

  /// `fill`: void(Event&). Throws std::bad_alloc only if the reserve is used up.
  template <class Fill>
  void emit(Event::Kind kind, pid_t pid, Fill fill) {
    if (!sink_) return;
    std::list<Event> event = take();
    event.front().kind = kind;
    event.front().pid = pid;
    fill(event.front());
    sink_->report(std::move(event));
  }

 private:
  std::list<Event> take() {
    std::list<Event> one;
    const std::lock_guard held(mutex_);
    if (reserve_.empty()) return fresh();
    one.splice(one.begin(), reserve_, reserve_.begin());
    return one;
  }
  std::list<Event> fresh() const {
    std::list<Event> one(1);
    one.front().worker = worker_;
    return one;
  }

  const std::shared_ptr<EventSink> sink_;
  const std::string worker_;
  std::mutex mutex_;
  std::list<Event> reserve_;
};

}}}  // namespace drover::v1::detail
