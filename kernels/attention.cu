#include "act.cuh"
