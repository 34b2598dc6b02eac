#pragma once

#include <utility>

#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

class Disposer;

/// The part of an entry that a Disposal uses.
struct Disposable {
  explicit Disposable(Disposer& d) noexcept : disposer(&d) {}

  Disposer* const disposer;
  union {
    Disposable* next_task = nullptr;  // the next entry in Actions::to_run or in a queue of a Disposal
    Clock::rep ticks;                 // while idle, and so in neither of them: see Entry::deadline()
  };
};

/// The owner of entries, which does the work that a Disposal has queued for them.
class Disposer {
 public:
  /// Destroys a value, whose destructor may release leases. May also destroy the disposable.
  virtual void destroy(Disposable& disposable) noexcept = 0;
  /// The value is destroyed: the next value of its key may be created, and waiting coroutines are woken.
  virtual void report_end(Disposable& disposable) noexcept = 0;

 protected:
  ~Disposer() = default;
};

/// The destructor of a value may release leases and thereby end other values, whose destructors release more, in other
/// pools too. The length of this chain depends on the user's data. So a release inside a destructor destroys nothing
/// itself: it queues that work for the outermost Disposal on its thread, which works in a loop.
///
/// All values are destroyed before the first end is reported, and all ends are reported before the first coroutine is
/// woken. So no thread sees the end of a value before everything that ends because of it has been destroyed.
class Disposal {
 public:
  Disposal() noexcept {
    if (current_ == nullptr) current_ = this;
  }
  Disposal(const Disposal&) = delete;
  Disposal& operator=(const Disposal&) = delete;
  ~Disposal() {
    if (current_ != this) return;
    run_all();
    current_ = nullptr;
  }

  // Call the next three functions only while there is a Disposal on this thread.

  static void destroy_later(Disposable& disposable) noexcept { current_->to_destroy_.push(disposable); }
  static void report_end_later(Disposable& disposable) noexcept { current_->to_report_.push(disposable); }
  /// Sets the events, at once if nothing else is queued.
  static void set_later(EventChain events) noexcept {
    if (current_->idle()) return EventSetter::set(std::move(events));
    current_->to_set_.append(std::move(events));
  }

  /// Does the queued work of the outermost Disposal now, for a caller inside a destructor that cannot continue without
  /// it. Does nothing if there is no Disposal.
  static void run_queued_work() noexcept {
    if (current_ != nullptr) current_->run_all();
  }

 private:
  class Queue {
   public:
    bool empty() const noexcept { return first_ == nullptr; }

    void push(Disposable& disposable) noexcept {
      disposable.next_task = nullptr;
      (first_ == nullptr ? first_ : last_->next_task) = &disposable;
      last_ = &disposable;
    }

    Disposable& pop() noexcept { return *std::exchange(first_, first_->next_task); }

   private:
    Disposable* first_ = nullptr;
    Disposable* last_ = nullptr;
  };

  bool idle() const noexcept { return to_destroy_.empty() && to_report_.empty(); }

  void run_all() noexcept {
    for (;;) {
      if (!to_destroy_.empty()) {
        Disposable& next = to_destroy_.pop();
        next.disposer->destroy(next);
      } else if (!to_report_.empty()) {
        Disposable& next = to_report_.pop();
        next.disposer->report_end(next);
      } else if (!to_set_.empty()) {
        EventSetter::set(std::move(to_set_));
      } else {
        return;
      }
    }
  }

  // A pointer has no destructor, so the destructors of other thread-local and static objects can use it, too.
  static constinit inline thread_local Disposal* current_ = nullptr;

  Queue to_destroy_, to_report_;
  EventChain to_set_;
};

}}}}  // namespace drover::v1::detail::resource_pool
