#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include <asio/execution_context.hpp>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Base of the objects that refer to an execution context (a waiting handler, a socket, a timer, a copy of an executor)
/// and must drop the reference before the context is destroyed. The context's registry owns the object while it is
/// registered.
class ContextBound {
 public:
  ContextBound() = default;
  ContextBound(const ContextBound&) = delete;
  ContextBound& operator=(const ContextBound&) = delete;

 protected:
  virtual ~ContextBound() = default;

 private:
  friend class BoundList;
  friend class ContextRegistry;

  /// The context is being destroyed: drop everything that refers to it, silently. Called once, without the registry's
  /// lock, on the thread that destroys the context. Nothing runs on that context any more.
  virtual void context_destroyed() noexcept = 0;

  std::shared_ptr<ContextBound> self_;  // set while it is in a list
  ContextBound* previous_ = nullptr;
  ContextBound* next_ = nullptr;
};

/// A list that owns its objects. No operation allocates. An object is in one list at most.
class BoundList {
 public:
  void add(std::shared_ptr<ContextBound> object) noexcept {
    ContextBound& r = *object;
    r.previous_ = nullptr;
    r.next_ = first_;
    if (first_ != nullptr) first_->previous_ = &r;
    first_ = &r;
    r.self_ = std::move(object);
  }
  /// Returns the list's share. Null if the object is in no list.
  std::shared_ptr<ContextBound> remove(ContextBound& r) noexcept {
    if (!r.self_) return nullptr;
    (r.previous_ != nullptr ? r.previous_->next_ : first_) = r.next_;
    if (r.next_ != nullptr) r.next_->previous_ = r.previous_;
    r.previous_ = r.next_ = nullptr;
    return std::exchange(r.self_, nullptr);
  }
  /// Null if the list is empty.
  std::shared_ptr<ContextBound> remove_first() noexcept { return first_ == nullptr ? nullptr : remove(*first_); }
  void swap(BoundList& other) noexcept { std::swap(first_, other.first_); }

 private:
  ContextBound* first_ = nullptr;
};

/// The objects that drover keeps in an execution context; each context has one registry. Objects outside of the context
/// hold the registry by shared_ptr and may outlive the context. The registry is then closed: nothing can be posted or
/// registered any more.
///
/// Lock order: an object's own mutex first, a registry's last. Under a registry's lock only add, remove and post (see
/// PostScope); never run user code.
class ContextRegistry {
 public:
  static std::shared_ptr<ContextRegistry> of(asio::execution_context& context);

  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

  /// With the lock held.
  bool closed() const noexcept { return closed_; }

  /// With the lock held and the registry not closed.
  void add(std::shared_ptr<ContextBound> object) noexcept { objects_.add(std::move(object)); }

  /// With the lock held. Returns the registry's share, so that the object is not destroyed under the lock. Returns null
  /// if the object was not registered.
  std::shared_ptr<ContextBound> remove(ContextBound& object) noexcept { return objects_.remove(object); }

  /// Holds the registry's lock while a handler is posted. A context in destruction may destroy a posted handler
  /// immediately (a strand, for example, is destroyed before the registries). User code must not run under the lock, so
  /// that destruction is deferred until the lock is released.
  class PostScope {
   public:
    explicit PostScope(ContextRegistry& registry) : before_(std::exchange(current_, this)), held_(registry.mutex_) {}
    PostScope(const PostScope&) = delete;
    PostScope& operator=(const PostScope&) = delete;
    ~PostScope() {
      current_ = before_;
      held_.unlock();
      if (dropped_) drop_(dropped_.get());
    }

    /// The post failed and destroyed its function, which will be posted again: do not call `drop`.
    void failed() noexcept { dropped_.reset(); }

    /// A posted function is being destroyed, and `owner` is to release an object because of that. If this thread is
    /// posting, `drop` is called once the lock is released. Returns false if this thread is not posting: the caller
    /// may do it now.
    static bool postpone(std::shared_ptr<void> owner, void (*drop)(void*) noexcept) noexcept {
      if (current_ == nullptr) return false;
      current_->dropped_ = std::move(owner);
      current_->drop_ = drop;
      return true;
    }

   private:
    static constinit inline thread_local PostScope* current_ = nullptr;

    PostScope* const before_;
    std::shared_ptr<void> dropped_;
    void (*drop_)(void*) noexcept = nullptr;
    std::unique_lock<std::mutex> held_;
  };

 private:
  class Service;

  void shut_down() noexcept {
    {
      const auto held = lock();
      closed_ = true;
    }
    // One at a time: an object that drops its references may destroy or remove others.
    for (;;) {
      std::shared_ptr<ContextBound> object;
      {
        const auto held = lock();
        object = objects_.remove_first();
      }
      if (!object) return;
      object->context_destroyed();
    }
  }

  std::mutex mutex_;
  bool closed_ = false;
  BoundList objects_;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/context/registry.ipp>
#endif
