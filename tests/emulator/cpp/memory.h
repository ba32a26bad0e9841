// Memory that kernels get: each allocation has guard zones, is filled with a pattern, and is known by its
// addresses.
#pragma once
#include <stddef.h>

#include <string>

namespace memory {

struct Range {
  char* start;
  size_t bytes;
};
// Multiples of 256. Null: the machine has none left.
void* allocate(size_t bytes);
// Filled with the pattern again and not used anew for a while, so that late reads and writes show.
void release(void* start);
bool intact(const void* start);
// The live allocation that holds this address.
bool find(const void* p, Range*);
// What was found since the last call: broken guard zones of released memory, writes to memory after its
// release. The argument: look at all of it now.
std::string complaint(bool look);

}  // namespace memory
