#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>

#include <drover/detail/resource_pool/actions.hpp>
#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/idle_timer.hpp>
#include <drover/detail/resource_pool/runner.hpp>
#include <drover/detail/resource_pool/shard.hpp>
#include <drover/detail/resource_pool/shards.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The shards of a ResourcePool and what they share: the functions of the program, the timer, and what carries out the
/// decisions of their state machines. It lives until the pool and all entries are destroyed.
///
/// An operation on all keys takes the locks of all shards. The timer's lock is taken before those of the shards.
template <class Key, class Value, class Lookup, class Time>
class Engine : public std::enable_shared_from_this<Engine<Key, Value, Lookup, Time>>, public TimerTarget {
 public:
  using Shard = resource_pool::Shard<Key, Value, Lookup, Time>;
  using Entry = typename Shard::Entry;
  using Reference = typename Shard::Reference;
  using Callbacks = resource_pool::Callbacks<Key, Value>;

  Engine(const asio::any_io_executor& executor, Rules rules, Callbacks callbacks)
      : shards_(rules.shards, *this, rules),
        clear_piece_(rules.clear_piece),
        runner_(executor, std::move(callbacks)),
        timer_(asio::query(executor, asio::execution::context), runner_.registry()) {}

  /// The pool is destroyed. Running factories and finalizers continue, nothing new begins, leases stay valid.
  void close() {
    const auto self = this->shared_from_this();
    {
      const std::lock_guard held(timer_mutex_);
      closed_ = true;
      timer_.cancel();
    }
    for (Shard& shard : shards_) shard.close();
    // A pool that is part of a value is destroyed before the rest of that value, together with its own values.
    Disposal::run_queued_work();
  }

  // For the shards ------------------------------------------------------------------------------

  Runner<Entry>& runner() noexcept { return runner_; }

  /// Carries out decisions, without any lock.
  void perform(const std::shared_ptr<Engine>& self, Actions<Entry> actions) noexcept {
    const Disposal disposal;
    if (actions.to_delete != nullptr) Disposal::destroy_later(*actions.to_delete);
    if (actions.deliver_events) shards_.front().deliver_events(self);  // a pool with events has one shard
    for (Disposable* task = actions.to_run; task != nullptr;) {
      auto& entry = static_cast<Entry&>(*std::exchange(task, task->next_task));
      entry.owner().run(self, entry);
    }
    Disposal::set_later(std::move(actions.to_set));
  }

  /// True if a wait of the timer is pending, or its due entries are being processed. The timer stores false before it
  /// locks the shards to look for the next entry, so a thread that adds an entry after that look sees it.
  bool timer_armed() const noexcept { return armed_.load(std::memory_order_relaxed); }

  /// Without any lock: arms the timer for the first entry that expires, unless it is armed.
  void arm_timer() noexcept {
    const std::lock_guard held(timer_mutex_);
    if (!timer_armed()) arm_for(next_due());
  }

  bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }

 protected:
  /// Begins to end the entries of a clear(). Other handlers run between the pieces, unless there is no memory for that.
  void clear_in_pieces(std::shared_ptr<Engine> self) noexcept {
    if (!clear_piece()) return;
    std::shared_ptr<Rest> rest;
    try {
      rest = std::make_shared<Rest>(self);
    } catch (...) {
      return clear_all();
    }
    (void)runner_.try_post([rest] {
      auto engine = std::exchange(rest->engine, nullptr);
      engine->clear_in_pieces(engine);
    });  // if this fails, the destructor of the rest ends them
  }

  virtual ~Engine() = default;  // virtual only because GCC warns of a class with friends otherwise

  const Shards<Shard> shards_;

 private:
  /// The entries of a clear() that are left for a later handler. If the context is destroyed first, they end at once.
  struct Rest {
    explicit Rest(std::shared_ptr<Engine> e) noexcept : engine(std::move(e)) {}
    Rest(const Rest&) = delete;
    Rest& operator=(const Rest&) = delete;
    ~Rest() {
      if (engine) engine->clear_all();
    }

    std::shared_ptr<Engine> engine;
  };

  bool clear_piece() noexcept {
    const Disposal disposal;
    std::size_t limit = clear_piece_;
    bool more = false;
    for (Shard& shard : shards_) more |= shard.clear_some(limit);
    return more;
  }
  void clear_all() noexcept {
    while (clear_piece()) {
    }
  }

  // Expiry --------------------------------------------------------------------------------------

  /// When the first idle entry expires.
  Deadline next_due() const noexcept {
    Deadline first;
    for (const Shard& shard : shards_) {
      const auto held = shard.lock();
      const Deadline due = shard.machine().next_due();
      if (due && (!first || *due < *first)) first = due;
    }
    return first;
  }

  /// With the timer's lock.
  void arm_for(Deadline due) noexcept {
    if (!due || closed()) return;
    try {
      timer_.arm(*due, this->weak_from_this());
      set_armed(true);
    } catch (...) {  // not enough memory
    }
  }

  void set_armed(bool armed) noexcept { armed_.store(armed, std::memory_order_relaxed); }

  void timer_fired() noexcept override {
    {
      const std::lock_guard held(timer_mutex_);
      set_armed(false);
      const Deadline due = next_due();
      if (!due || *due > Time::now()) return arm_for(due);
      set_armed(true);  // until the due entries have been processed
    }
    post_expiry();
  }

  void timer_failed() noexcept override {
    const std::lock_guard held(timer_mutex_);
    set_armed(false);
    arm_for(Time::now() + retry_after);
  }

  void post_expiry() noexcept {
    const auto self = this->shared_from_this();
    if (!runner_.try_post([self] { self->expire_due(self); })) timer_failed();
  }

  /// Many values may be due at once. Other handlers run between the pieces.
  void expire_due(const std::shared_ptr<Engine>& self) noexcept {
    Actions<Entry> actions;
    bool more = false;
    {
      const AllLocked locked(shards_);
      more = expire_piece(Time::now(), actions);
      set_armed(more);
    }
    if (!more) arm_timer();
    perform(self, std::move(actions));
    if (more) post_expiry();
  }

  /// Expires due entries of all shards, the first one first. Returns true if there may be more.
  bool expire_piece(Clock::time_point now, Actions<Entry>& actions) noexcept {
    for (std::size_t i = 0;; ++i) {
      Shard* first = nullptr;
      for (Shard& shard : shards_) {
        const Deadline due = shard.machine().next_due();
        if (due && *due <= now && (first == nullptr || *due < *first->machine().next_due())) first = &shard;
      }
      if (first == nullptr || i == piece) return first != nullptr;
      first->machine().expire_first();
      actions.append(first->machine().take_actions());
    }
  }

  /// When expiry is tried again that failed for want of memory.
  static constexpr Duration retry_after = std::chrono::milliseconds(10);

  const std::size_t clear_piece_;
  Runner<Entry> runner_;
  std::mutex timer_mutex_;  // guards the timer, and armed_ with it
  std::atomic<bool> armed_{false};
  std::atomic<bool> closed_{false};
  typename Time::Timer timer_;
};

}}}}  // namespace drover::v1::detail::resource_pool
