// One kernel file for one element type: EMULATED is the file, as an include. All of it has internal linkage,
// since names such as Act and Params mean different things in different files and images.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

namespace {
#include EMULATED
}
