"""The Django project of channels_before.py and channels_after.py: users, who log in with a password."""

from __future__ import annotations

import sys

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse

settings.configure(
    SECRET_KEY="change me",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django_site.sqlite3"}},
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},  # Redis for several processes
    ROOT_URLCONF="django_site",
)
django.setup()

from django.contrib.auth import authenticate, login  # noqa: E402  # Django must be set up first
from django.contrib.auth.models import User  # noqa: E402


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    user = authenticate(request, username=name, password=request.POST.get("password"))
    if user is None:
        return HttpResponse("wrong password", status=401)
    login(request, user)
    return HttpResponse("welcome")


urlpatterns: list[object] = []  # the programs add their own

if __name__ == "__main__":  # python django_site.py NAME PASSWORD: make the database, with a user
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_user(sys.argv[1], password=sys.argv[2])
