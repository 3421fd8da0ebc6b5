"""How many statements it takes to read many rooms in short; on both databases."""

from homeserver.matrix.identifiers import RoomId
from homeserver.services.rooms.directories_elsewhere import DirectoriesElsewhere
from homeserver.services.rooms.directory import Directory, DirectoryPage
from homeserver.services.rooms.hierarchy import Hierarchy, View
from homeserver.services.rooms.spaces_elsewhere import SpacesElsewhere
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.summaries import Summaries
from tests.statements import counted
from tests.world import World


async def test_directory_and_spaces_are_read_in_a_fixed_number_of_statements(world: World) -> None:
    alice = await world.user("alice")
    container = world.container
    space = await alice.create_room(visibility="public", creation_content={"type": "m.space"})
    who = await container.sessions.requester(alice.token)
    view = View(suggested_only=False, limit=50, max_depth=3)
    needed = []
    for count in (2, 20):
        for number in range(count):
            room_id = await alice.create_room(visibility="public", name=f"{number}")
            await alice.set_state(space, "m.space.child", {"via": ["localhost"]}, room_id)
        with counted() as sent:
            # Nothing is in memory yet.
            summaries = Summaries(StateTrees())
            elsewhere = DirectoriesElsewhere(container.federation)
            directory = Directory(container.database, world.clock, container.sender, summaries, elsewhere, "localhost")
            page = await directory.list_public(DirectoryPage(None, None))
            trees = StateTrees()
            others = SpacesElsewhere(container.federation, world.clock)
            hierarchy = Hierarchy(container.database, trees, Summaries(trees), others, "localhost")
            tree = await hierarchy.page(who, RoomId(space), view, None)
        assert len(page["chunk"]) == len(tree["rooms"])
        needed.append(len(sent))
    assert needed[1] <= needed[0] + 2  # The larger space's tree may be one level deeper.
    assert needed[1] < 25
