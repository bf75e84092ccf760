"""In which order segments stand: a place where ways meet comes after all the ways that lead there, loops are whole.

Then running the smallest program counter first brings threads together again where a GPU does. The order in the text
will not do, since compilers put the blocks of a loop where they like.
"""


def components(nodes, successors):
    """The strongly connected components within ``nodes``, each before those it leads to (Tarjan, without recursion)."""
    index, low, found, stack, on_stack = {}, {}, [], [], set()
    for root in sorted(nodes, reverse=True):
        if root in index:
            continue
        work = [(root, None)]
        while work:
            node, ways = work.pop()
            if ways is None:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
                # the first in the text is visited last, so that it comes first where the order is free
                ways = iter(sorted((s for s in successors[node] if s in nodes), reverse=True))
            for way in ways:
                if way not in index:
                    work += [(node, ways), (way, None)]
                    break
                if way in on_stack:
                    low[node] = min(low[node], index[way])
            else:
                if low[node] == index[node]:
                    at = stack.index(node)
                    found.append(stack[at:])
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
                if work:
                    below = work[-1][0]
                    low[below] = min(low[below], low[node])
    return found[::-1]


def order(nodes, successors):
    """All nodes, loops within loops in one piece, each loop from where it is entered."""
    result = []
    for component in components(nodes, successors):
        if len(component) == 1:
            result += component
            continue
        inside = set(component)
        entered = {s for n, ways in enumerate(successors) if n not in inside for s in ways if s in inside}
        head = 0 if 0 in inside else min(entered or inside)
        result += [head, *order(inside - {head}, successors)]
    return result
