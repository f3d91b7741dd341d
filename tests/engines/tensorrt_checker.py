"""Does our code use names of TensorRT that every supported version has? A walk over the syntax tree.

A name that a version lacks needs a guard: `if hasattr(owner, "Name")` (also with `and`, negated, with a return behind,
through a function of the same module that only returns such a test), or `try ... except AttributeError`. Inside a guard
only the versions that have the guarded name count.

Objects are followed through assignments from `trt.X(...)`, `trt.X` and methods whose result is known; where `handles`
is set, a parameter annotated Any with one of the usual names (CONVENTION) is that object. Of other objects only names
that TensorRT knows are looked at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.fake_gpu.tensorrt_names import VERSIONS, Name, table

CONVENTION = {
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser",
    "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext", "profile": "IOptimizationProfile",
    "layer": "ILayer", "error": "ParserError",
}  # fmt: skip
FUNCTIONS = {"get_plugin_registry": "IPluginRegistry"}  # of the module, and what they give
MODULE = "tensorrt"
ALL = frozenset(VERSIONS)
NOWHERE = Name(frozenset(), (), "")
Versions = frozenset[str]
Type = tuple[str, str] | None  # ("module" | "class" | "object" | "ours", name of the class)


@dataclass(frozen=True)
class Finding:
    line: int
    text: str


def find(owner: str, name: str) -> Name:
    """A member of a class, or of a class it derives from."""
    known = table()
    bases = [owner, *(["ILayer"] if owner.endswith("Layer") else []), *(["ILogger"] if owner == "Logger" else [])]
    return next((known[f"{base}.{name}"] for base in bases if f"{base}.{name}" in known), NOWHERE)


def anywhere(name: str) -> list[Name]:
    """Members of that name of all classes."""
    return [facts for full, facts in table().items() if full.partition(".")[2] == name]


def versions_of(kind: Type, name: str) -> Versions | None:
    """Versions in which the owner has the name; None where the owner is not TensorRT's, or nobody can tell."""
    if kind is None:
        return frozenset().union(*(facts.versions for facts in anywhere(name))) or None
    if kind[0] == "module":
        return ALL if name.startswith("__") else table().get(name, NOWHERE).versions
    return None if kind[0] == "ours" or name.startswith("__") else find(kind[1], name).versions


class Checker(ast.NodeVisitor):
    """One module."""

    def __init__(self, tree: ast.Module, objects: bool, handles: bool) -> None:
        self.findings: list[Finding] = []
        self.looked_up = 0  # names of TensorRT found in the code
        self._versions, self._tolerant = ALL, False
        self._objects, self._handles = objects, handles
        self._types: list[dict[str, Type]] = [{}]
        self._predicates = {
            node.name: node.body[-1].value
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return) and len(node.body) <= 2
        }
        self._block(tree.body)

    # What an expression is

    def type_of(self, node: ast.AST) -> Type:
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self._types) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            return self._attribute_type(node)
        if isinstance(node, ast.Call):
            return self._call_type(node)
        return None if isinstance(node, (ast.Subscript, ast.Await, ast.IfExp)) else ("ours", "")

    def _attribute_type(self, node: ast.Attribute) -> Type:
        owner = self.type_of(node.value)
        if owner == ("module", MODULE):
            return "class", node.attr
        if owner is not None and owner[0] == "ours":
            return next((s[f".{node.attr}"] for s in reversed(self._types) if f".{node.attr}" in s), ("ours", ""))
        return None

    def _call_type(self, node: ast.Call) -> Type:
        kind = self.type_of(node.func)
        if kind is not None and kind[0] == "class":
            return "object", FUNCTIONS.get(kind[1], kind[1])
        if isinstance(node.func, ast.Attribute) and (owner := self.type_of(node.func.value)) and owner[0] == "object":
            returns = find(owner[1], node.func.attr).returns
            return ("object", returns) if returns else None
        made = node.func.value if isinstance(node.func, ast.Attribute) else node.func  # Ours(...), Ours.read(...)
        own = isinstance(made, ast.Name) and made.id[:1].isupper() and self.type_of(made) == ("ours", "")
        return ("ours", "") if own else None

    # Scopes and names

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            here = ("module", MODULE) if alias.name == MODULE else ("ours", "")
            self._types[-1][alias.asname or alias.name.partition(".")[0]] = here

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if node.module == MODULE:
                self._check(node, ("module", MODULE), alias.name)
            self._types[-1][alias.asname or alias.name] = (
                ("class", alias.name) if node.module == MODULE else ("ours", "")
            )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(part)
        with self._scope():
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                self._types[-1][argument.arg] = self._parameter(argument)
            self._block(node.body)

    def _parameter(self, argument: ast.arg) -> Type:
        loose = argument.annotation is None or ast.unparse(argument.annotation) in {"Any", "object"}
        if not loose or argument.arg in {"self", "cls"}:
            return "ours", ""
        known = CONVENTION.get(argument.arg) if self._handles else None
        return ("object", known) if known else None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            self.visit(base)
            if (kind := self.type_of(base)) is not None and kind[0] == "class":
                self._check_overrides(node, kind[1])
        with self._scope():
            for method in [item for item in ast.walk(node) if isinstance(item, ast.FunctionDef)]:
                self._remember_attributes(method)
            self._block(node.body)

    def _remember_attributes(self, method: ast.FunctionDef) -> None:
        """Types of `self.x` that are given in assignments from parameters and calls."""
        scope = {a.arg: self._parameter(a) for a in [*method.args.args, *method.args.kwonlyargs]}
        self._types.append(scope)
        for node in ast.walk(method):
            for target, value in _pairs(node):
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    self._types[-2][f".{target.attr}"] = self.type_of(value)
        self._types.pop()

    def _check_overrides(self, node: ast.ClassDef, owner: str) -> None:
        for method in [item for item in node.body if isinstance(item, ast.FunctionDef)]:
            signatures = find(owner, method.name).signatures
            count = len(method.args.args) - 1
            if method.name != "__init__" and signatures and count not in {len(each) for each in signatures}:
                self._say(method, f"{owner}.{method.name} takes {signatures[0]}, but this takes {count} parameters")

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self._types.append({})
        before = self._versions
        yield
        self._versions = before
        self._types.pop()

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign) -> None:
        self.generic_visit(node)
        for target, value in _pairs(node):
            if isinstance(target, ast.Name):
                self._types[-1][target.id] = self.type_of(value)

    visit_AnnAssign = visit_Assign

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._forget(node.target)
        with self._only(ALL):
            self._block(node.body)
        self._block(node.orelse)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        with self._scope():
            for part in node.generators:
                self.visit(part.iter)
                self._forget(part.target)
                for test in part.ifs:
                    self.visit(test)
                    self._versions &= self.holds(test)
            for value in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
                self.visit(value)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _forget(self, target: ast.AST) -> None:
        for name in [item.id for item in ast.walk(target) if isinstance(item, ast.Name)]:
            self._types[-1][name] = None

    # Guards

    def holds(self, test: ast.AST | None, wanted: bool = True) -> Versions:
        """Versions in which a test can come out as wanted; all where it says nothing about them."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.holds(test.operand, not wanted)
        if isinstance(test, ast.BoolOp):
            found = [self.holds(value, wanted) for value in test.values]
            both = isinstance(test.op, ast.And) == wanted
            return frozenset.intersection(*found) if both else frozenset().union(*found)
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name):
            return self._asked(test, test.func.id, wanted)
        return ALL

    def _asked(self, call: ast.Call, function: str, wanted: bool) -> Versions:
        if function in self._predicates:
            return self.holds(self._predicates[function], wanted)
        if function != "hasattr" or not isinstance(call.args[1], ast.Constant):
            return ALL
        found = versions_of(self.type_of(call.args[0]), str(call.args[1].value))
        return ALL if found is None else found if wanted else ALL - found

    @contextmanager
    def _only(self, versions: Versions) -> Iterator[None]:
        before, self._versions = self._versions, self._versions & versions
        yield
        self._versions = before

    def visit_If(self, node: ast.If | ast.IfExp | ast.While) -> None:
        self.visit(node.test)
        for part, wanted in ((node.body, True), (node.orelse, False)):
            with self._only(self.holds(node.test, wanted)):
                self._block(part if isinstance(part, list) else [part])

    visit_IfExp = visit_While = visit_If

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        with self._only(ALL):
            for value in node.values:
                self.visit(value)
                self._versions &= self.holds(value, isinstance(node.op, ast.And))

    def visit_Try(self, node: ast.Try) -> None:
        caught = {ast.unparse(handler.type) for handler in node.handlers if handler.type is not None}
        before, self._tolerant = self._tolerant, self._tolerant or "AttributeError" in " ".join(caught)
        self._block(node.body)
        self._tolerant = before
        for part in (*[handler.body for handler in node.handlers], node.orelse, node.finalbody):
            self._block(part)

    def _block(self, body: Iterable[ast.AST]) -> None:
        """Statements in order; behind `if not hasattr(...): return` only the other versions are left."""
        for node in body:
            self.visit(node)
            if isinstance(node, ast.If) and isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue)):
                self._versions &= self.holds(node.test, False)

    # Uses

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        self._check(node, self.type_of(node.value), node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in {"getattr", "hasattr"} and len(node.args) >= 2:
            self._check_lookup(node)
        signatures = self._signatures(node)
        keywords = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
        if signatures and not any(keywords <= set(each) for each in signatures):
            self._say(node, f"{ast.unparse(node.func)} has no keywords {sorted(keywords)}: {signatures}")
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        if signatures and not starred and len(node.args) > max(map(len, signatures)):
            self._say(node, f"{ast.unparse(node.func)} takes {signatures}, but {len(node.args)} values are given")

    def _signatures(self, node: ast.Call) -> tuple[tuple[str, ...], ...]:
        kind = self.type_of(node.func)
        if kind is not None and kind[0] == "class":
            return find(kind[1], "__init__").signatures
        if isinstance(node.func, ast.Attribute):
            owner = self.type_of(node.func.value)
            return find(owner[1], node.func.attr).signatures if owner is not None and owner[0] == "object" else ()
        return ()

    def _check_lookup(self, node: ast.Call) -> None:
        """getattr and hasattr with a name that no version has ask in vain; getattr without a default is a use."""
        owner, name = node.args[0], node.args[1]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            return
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 2:
            self._check(node, self.type_of(owner), name.value)
        elif versions_of(self.type_of(owner), name.value) == frozenset():
            self._say(node, f"no version has {ast.unparse(owner)}.{name.value}")

    def _check(self, node: ast.AST, kind: Type, name: str) -> None:
        if kind is None and not self._objects:
            return
        found = versions_of(kind, name)
        if found is None:
            return
        self.looked_up += 1
        if not found:
            self._say(node, f"no version has {kind[1] if kind else ''}.{name}")
        elif (missing := self._versions - found) and not self._tolerant:
            self._say(node, f"{kind[1] if kind else ''}.{name} is missing in {sorted(missing)}, and nothing asks")

    def _say(self, node: ast.AST, text: str) -> None:
        self.findings.append(Finding(getattr(node, "lineno", 0), text))


def _pairs(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Targets and values of an assignment, `a, b = c, d` one by one."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.target, node.value
    for target in node.targets if isinstance(node, ast.Assign) else []:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def check(source: str, handles: bool = False) -> Checker:
    """`handles`: parameters of the usual names are TensorRT's objects, also where the library is not imported."""
    tree = ast.parse(source)
    imports = any("tensorrt" in ast.unparse(n) for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)))
    return Checker(tree, handles or imports, handles)
