#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/context/executor_ref.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/detail/context/spawn.hpp>
#include <drover/detail/resource_pool/actions.hpp>
#include <drover/detail/resource_pool/event_queue.hpp>
#include <drover/detail/resource_pool/factory.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The functions of the program that a pool calls. All but the factory may be empty.
template <class Key, class Value>
struct Callbacks {
  std::unique_ptr<Factory<Key, Value>> factory;
  std::function<asio::awaitable<void>(Value&)> finalizer;
  std::function<void(std::exception_ptr)> on_error;
  std::function<void(EventKind, const Key&, const std::exception_ptr&)> on_event;
};

/// The owner of a Runner, which answers its questions and receives its reports. Called without any lock.
template <class Entry>
class RunnerOwner {
 public:
  /// Called on the executor, before a factory or finalizer is called. If it returns false, that does not happen, and
  /// abandoned() is called.
  virtual bool may_run() = 0;

  virtual void factory_ended(Entry& entry, std::unique_ptr<typename Entry::Value> value, std::exception_ptr error) = 0;
  virtual void finalizer_ended(Entry& entry, std::exception_ptr error) = 0;
  /// The factory or finalizer will not end, because the context or the pool is destroyed, or because of this error: it
  /// could not begin. May be called by the function of the Runner that was to begin it.
  virtual void abandoned(Entry& entry, std::exception_ptr error) noexcept = 0;

  /// Returns the events to deliver after those of the previous call. If there are none, the delivery has ended.
  virtual PendingEvents<Entry> next_events(const PendingEvents<Entry>& delivered) = 0;
  /// The delivery ends after these events, because the context is destroyed.
  virtual void drop_events(const PendingEvents<Entry>& delivered) noexcept = 0;

 protected:
  ~RunnerOwner() = default;
};

/// Calls the functions of the program on the executor of the pool. A runner is a member of its owner. What runs keeps
/// the owner alive. To post anything takes memory: where there is none, the owner hears of it and nothing is lost.
template <class Entry>
class Runner {
  using Key = typename Entry::Key;
  using Value = typename Entry::Value;
  using Owner = RunnerOwner<Entry>;

 public:
  Runner(const asio::any_io_executor& executor, Callbacks<Key, Value> callbacks)
      : callbacks_(std::move(callbacks)), executor_(executor) {}

  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return executor_.registry(); }

  bool has_finalizer() const noexcept { return callbacks_.finalizer != nullptr; }

  void run_factory(std::shared_ptr<Owner> owner, Entry& entry) noexcept {
    post_job(std::move(owner), entry, &Runner::call_factory);
  }

  void run_finalizer(std::shared_ptr<Owner> owner, Entry& entry) noexcept {
    post_job(std::move(owner), entry, &Runner::call_finalizer);
  }

  /// Begins a delivery. The owner must not begin another one before this one has ended. Returns false if there is not
  /// enough memory to begin.
  [[nodiscard]] bool deliver_events(std::shared_ptr<Owner> owner) noexcept {
    std::shared_ptr<EventDelivery> delivery;
    try {
      delivery = std::make_shared<EventDelivery>(*this, std::move(owner));
      executor_.post([delivery] { delivery->run(); });
      return true;
    } catch (...) {
      if (delivery) delivery->cancel();
      return false;
    }
  }

  /// Posts a function to the executor, see ContextExecutorRef::post(). Returns false if there is not enough memory.
  template <class F>
  [[nodiscard]] bool try_post(F function) noexcept {
    try {
      executor_.post(std::move(function));
      return true;
    } catch (...) {
      return false;
    }
  }

  /// Calls on_error at once.
  void report_error(const std::exception_ptr& error) noexcept {
    if (!callbacks_.on_error) return;
    try {
      callbacks_.on_error(error);
    } catch (...) {  // there is nowhere else to report it
    }
  }

 private:
  /// A factory or finalizer that runs or is about to run. If the context is destroyed first, or the job has failed to
  /// begin, it is destroyed before it has ended.
  class Job {
   public:
    Job(Runner& r, std::shared_ptr<Owner> o, Entry& e) : runner(r), owner(std::move(o)), entry_(&e) {}
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    ~Job() {
      if (entry_ != nullptr) owner->abandoned(*entry_, std::move(error_));
    }

    /// It cannot begin. What there is of its coroutine may be destroyed later, and the job with it.
    void failed_to_begin(std::exception_ptr error) noexcept { error_ = std::move(error); }

    Entry& entry() const noexcept { return *entry_; }
    Entry& end() noexcept { return *std::exchange(entry_, nullptr); }

    Runner& runner;
    const std::shared_ptr<Owner> owner;

   private:
    Entry* entry_;  // null once the job has ended
    std::exception_ptr error_;
  };

  /// If the context is destroyed first, the delivery is destroyed before it has ended.
  class EventDelivery : public std::enable_shared_from_this<EventDelivery> {
   public:
    EventDelivery(Runner& runner, std::shared_ptr<Owner> owner) : runner_(runner), owner_(std::move(owner)) {}
    EventDelivery(const EventDelivery&) = delete;
    EventDelivery& operator=(const EventDelivery&) = delete;
    ~EventDelivery() {
      if (!ended_) owner_->drop_events(events_);
    }

    void cancel() noexcept { ended_ = true; }

    /// Other handlers run between the pieces, unless there is no memory for that.
    void run() {
      for (std::size_t reported = 0;;) {
        events_ = owner_->next_events(events_);
        if (events_.empty()) return cancel();
        events_.for_each([&](const auto& event) {
          runner_.report_event(event);
          ++reported;
        });
        if (reported < piece) continue;
        if (runner_.try_post([self = this->shared_from_this()] { self->run(); })) return;
      }
    }

   private:
    Runner& runner_;
    const std::shared_ptr<Owner> owner_;
    PendingEvents<Entry> events_;  // delivered, or being so
    bool ended_ = false;
  };

  void post_job(const std::shared_ptr<Owner>& owner, Entry& entry,
                void (Runner::*call)(std::shared_ptr<Job>)) noexcept {
    std::shared_ptr<Job> job;
    try {
      job = std::make_shared<Job>(*this, owner, entry);
      executor_.post([job, call] {
        if (job->owner->may_run()) (job->runner.*call)(job);
      });
    } catch (...) {
      if (!job) return owner->abandoned(entry, std::current_exception());
      job->failed_to_begin(std::current_exception());
    }
  }

  void call_factory(std::shared_ptr<Job> job) {
    if (callbacks_.factory->is_coroutine()) return spawn(std::move(job), await_factory);
    std::unique_ptr<Value> value;
    std::exception_ptr error;
    try {
      value = callbacks_.factory->create_now(job->entry().key);
    } catch (...) {
      error = std::current_exception();
    }
    job->owner->factory_ended(job->end(), std::move(value), std::move(error));
  }

  void call_finalizer(std::shared_ptr<Job> job) { spawn(std::move(job), await_finalizer); }

  void spawn(std::shared_ptr<Job> job, asio::awaitable<void> (*coroutine)(std::shared_ptr<Job>)) noexcept {
    try {
      detail::spawn(executor_.executor(), coroutine(job));
    } catch (...) {
      job->failed_to_begin(std::current_exception());
    }
  }

  static asio::awaitable<void> await_factory(std::shared_ptr<Job> job) {
    std::unique_ptr<Value> value;
    std::exception_ptr error;
    try {
      value = co_await job->runner.callbacks_.factory->create(job->entry().key);
    } catch (...) {
      error = std::current_exception();
    }
    job->owner->factory_ended(job->end(), std::move(value), std::move(error));
  }

  static asio::awaitable<void> await_finalizer(std::shared_ptr<Job> job) {
    std::exception_ptr error;
    try {
      co_await job->runner.callbacks_.finalizer(*job->entry().value);
    } catch (...) {
      error = std::current_exception();
    }
    job->owner->finalizer_ended(job->end(), std::move(error));
  }

  void report_event(const PendingEvent<Entry>& event) noexcept {
    try {
      callbacks_.on_event(event.kind, event.entry->key, event.error);
    } catch (...) {  // the program's handler has to catch its exceptions
    }
  }

  Callbacks<Key, Value> callbacks_;
  ContextExecutorRef executor_;
};

}}}}  // namespace drover::v1::detail::resource_pool
