/* Threads for the kernels: started when they are first needed, one region at a time. */
#ifndef FASTRNN_POOL_H
#define FASTRNN_POOL_H

#include <stdatomic.h>

enum { LINE = 64 }; /* bytes of a line of the cache, and of the widest vector */

/* What the members of a team meet at. */
typedef struct {
    int members;
    _Atomic int arrived;
    _Atomic unsigned generation;
} barrier;

/* Run task(argument, member, team) on up to `most` threads, this one as member 0, and return when
 * all have. The task must be correct for any number of members: threads may be busy elsewhere, or
 * not to be had, and are waited for an eighth of the time that this one would take `alone`, in
 * microseconds, at most 200. */
typedef void team_task(void *argument, int member, barrier *team);
void pool_run(team_task *task, void *argument, int most, double alone);

/* The same of a task whose members never meet: nobody is waited for. What they have not begun when this
 * thread has done its own, it does, too. */
void pool_share(team_task *task, void *argument, int most, double alone);

/* Return when all members of the team are here. */
void pool_wait(barrier *team);

/* Let threads run that there is no processor for. */
void pool_crowd(int allowed);

/* Ask the threads to end, and wait until they have. */
void pool_stop(void);

#endif
