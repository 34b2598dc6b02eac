#pragma once

#include <functional>
#include <memory>
#include <new>
#include <utility>

#include <drover/detail/context/strand.hpp>
#include <drover/event.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/pool/detail/event_source.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Brings the reaper thread's events about a worker's process to where they are handled: its exit to the WorkerExit, on
/// the worker's executor; everything else to the user's on_event. Any thread; takes no lock but its own.
class ProcessEvents {
 public:
  /// The session's WorkerExit.
  class Target {
   public:
    virtual void process_exit(bool on_executor) = 0;
    virtual void group_over() = 0;

   protected:
    ~Target() = default;
  };

  ProcessEvents(std::shared_ptr<ContextStrand> to_executor, EventSource& events) noexcept
      : to_executor_(std::move(to_executor)), events_(events) {}

  /// On any thread, under the child's lock, which comes after the dispatcher's mutex: so that must not be taken here.
  void handle(const ChildEvent& event, std::shared_ptr<Target> target) {
    switch (event.kind) {
      case ChildEvent::Kind::ended: return exit_later(std::move(target));
      case ChildEvent::Kind::group_over:
        to_executor_->post([target = std::move(target)] { target->group_over(); });
        return;
      case ChildEvent::Kind::terminate_sent: return report(event, Event::Kind::terminate_sent);
      case ChildEvent::Kind::kill_sent: return report(event, Event::Kind::kill_sent);
      case ChildEvent::Kind::stopped: return report(event, Event::Kind::stopped);
      case ChildEvent::Kind::continued: return report(event, Event::Kind::continued);
    }
  }

  /// Processes the exit on the worker's executor. Without the memory for it, again and again. The target keeps this
  /// object alive.
  void exit_later(std::shared_ptr<Target> target) {
    to_executor_->post([this, target = std::move(target)] {
      try {
        target->process_exit(true);
      } catch (const std::bad_alloc&) {
        exit_later(target);
      }
    });
  }

  /// False if the executor's context is destroyed.
  bool post(std::function<void()> function) { return to_executor_->post(std::move(function)); }
  void close() noexcept { to_executor_->close(); }

 private:
  void report(const ChildEvent& event, Event::Kind kind) {
    events_.emit(kind, event.pid, [&](Event& reported) {
      reported.at = event.at;
      if (kind == Event::Kind::stopped) reported.stopped_by = event.signo;
    });
  }

  const std::shared_ptr<ContextStrand> to_executor_;
  EventSource& events_;
};

}}}  // namespace drover::v1::detail
