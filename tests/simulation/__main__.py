"""`python -m tests.simulation`: runs many seeds, or one of them again with its trace."""
import sys, time
from tests.simulation.patches import machine_replaced
from tests.simulation.world import simulate
n=int(sys.argv[1]); f=int(sys.argv[2]) if len(sys.argv)>2 else 0
t0=time.time()
with machine_replaced() as m:
    for seed in range(f,f+n):
        r=simulate(seed,m)
        if r.failure: print(seed, r.failure)
print((time.time()-t0)/n*1000,"ms")
