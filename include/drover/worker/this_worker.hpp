#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <map>
#include <set>
#include <string>

#include <drover/detail/config.hpp>
#include <drover/wire/worker_info.hpp>

/// What the worker that calls these functions knows of itself: its slot in the pool, and the name, tags and extra of
/// its WorkerOptions. DROVER_SLOT in its environment is the slot as well. A spare worker (PoolOptions::spares) gets its
/// slot, and the variables of PoolOptions::slot_env, just before its first call.
///
/// *Errors:* std::logic_error in a process that is not a worker, and before in_worker() has been called.
/// *Lifetime:* the references are valid until the process exits.
/// *Threads:* any thread.
namespace drover { inline namespace v1 { namespace this_worker {

/// All of it.
const WorkerInfo& info();

/// The number of its place in the pool, from 0. A replacement has the number of its predecessor. 0 outside of pools,
/// no_slot while the worker is a spare.
std::size_t slot();
const std::string& name();
const std::set<std::string>& tags();
const std::map<std::string, std::string>& extra();

}}}  // namespace drover::v1::this_worker

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/worker/this_worker.ipp>
#endif
