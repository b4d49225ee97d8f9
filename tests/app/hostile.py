"""Prompts of people who try to break a page."""

HOSTILE = (
    "x" * 1_000_000,
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">",
    "\x00\x1b]0;taken\x07\x1b[2J\r\n\t",
    "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "\u202etac der a\u202c قطة حمراء",
    "\ud800 lone surrogate",
    "'; DROP TABLE prompts; -- {{7*7}} ${7*7} %s%n ../../etc/passwd",
    "e\u0301" * 5000,
    "",
    "   ",
)
